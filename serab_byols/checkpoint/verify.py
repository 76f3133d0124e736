"""Whether a file is the one that was published."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from serab_byols.checkpoint.registry import PublishedWeights

_BLOCK_BYTES = 1 << 20


def mismatch(path: Path, weights: PublishedWeights) -> str | None:
    """How the file differs from ``weights``, what was expected and what is there; None if it does not.

    Raises:
        OSError: the file is not there or cannot be read.
    """
    with path.open("rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if weights.n_bytes not in (None, n_bytes):
            return f"it has {n_bytes:,} bytes, expected {weights.n_bytes:,}"
        # SHA-1 here is git's identity of a file; where FIPS rules forbid it for security, they allow this.
        blob = hashlib.sha1(b"blob %d\0" % n_bytes, usedforsecurity=False)
        sha256 = hashlib.sha256()
        while block := file.read(_BLOCK_BYTES):
            blob.update(block)
            sha256.update(block)
    if weights.sha256 not in (None, sha256.hexdigest()):
        return f"its sha256 is {sha256.hexdigest()}, expected {weights.sha256}"
    if weights.git_blob_id != blob.hexdigest():
        return f"its git blob id is {blob.hexdigest()}, expected {weights.git_blob_id}"
    return None
