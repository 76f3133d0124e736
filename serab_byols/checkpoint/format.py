"""Constants of the checkpoint format, and the digest that identifies weights in any file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from serab_byols.encoders import Encoder

FORMAT_VERSION = 1
HEADER_KEY = "serab_byols"
STORAGE_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Floating-point types of weights in a file; a loaded model has float32."""


def header_sha256(header: Mapping[str, Any]) -> str:
    """Checksum of all entries of a header but the checksum itself."""
    entries = {key: value for key, value in header.items() if key != "header_sha256"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True, allow_nan=False).encode()).hexdigest()


def weights_sha256(encoder: Encoder) -> str:
    """Digest of an encoder's weights, the same for every file format: names, shapes, float32 bytes."""
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
    """Key of the first tensor with a NaN or infinite value in float32; the extremes show it."""
    extremes = ((key, torch.stack(tensor.float().aminmax())) for key, tensor in state.items())
    return next((key for key, pair in extremes if not pair.isfinite().all()), None)
