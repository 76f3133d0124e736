"""The autograd mode that embeddings are computed in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def inference_context() -> Iterator[None]:
    """No gradients, but ordinary tensors rather than inference tensors: a probe can be trained on them."""
    with torch.inference_mode(False), torch.no_grad():
        yield
