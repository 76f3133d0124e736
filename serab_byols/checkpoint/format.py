"""What the checkpoint format fixes, and what identifies weights in whatever file they came."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from serab_byols.encoders import Encoder

FORMAT_VERSION = 1
HEADER_KEY = "serab_byols"
STORAGE_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Of weights in a file; a model that is loaded has float32."""


def weights_sha256(encoder: Encoder) -> str:
    """Identity of an encoder's weights, whatever file they came in: names, shapes, float bytes."""
    return state_sha256(encoder.state_dict())


def state_sha256(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key, tensor in state.items():
        array = tensor.detach().cpu()
        array = array.float() if array.is_floating_point() else array
        digest.update(f"{key}|{tuple(array.shape)}|".encode())
        digest.update(array.contiguous().numpy().tobytes())
    return digest.hexdigest()


def first_not_finite(state: Mapping[str, torch.Tensor]) -> str | None:
    """Key of a tensor that would be NaN or infinite in float32, if only in part; extremes show it."""
    extremes = ((key, torch.stack(tensor.float().aminmax())) for key, tensor in state.items())
    return next((key for key, pair in extremes if not pair.isfinite().all()), None)
