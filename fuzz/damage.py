"""Damage to the bytes of a file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_HEADER_BYTES = 256


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one to four kinds of damage, half of them near the beginning, where headers are."""
    for _ in range(int(rng.integers(1, 5))):
        content = _KINDS[int(rng.integers(len(_KINDS)))](content, rng)
    return content


def _position(content: bytes, rng: np.random.Generator) -> int:
    size = len(content) if rng.random() < 0.5 else min(len(content), _HEADER_BYTES)
    return int(rng.integers(max(1, size)))


def _flip_bit(content: bytes, rng: np.random.Generator) -> bytes:
    at = _position(content, rng)
    flipped = bytes([content[at] ^ (1 << int(rng.integers(8)))]) if content else b""
    return content[:at] + flipped + content[at + 1 :]


def _write_extreme(content: bytes, rng: np.random.Generator) -> bytes:
    """A size or a count that is not true."""
    at, n_bytes = _position(content, rng), int(rng.choice([1, 2, 4, 8]))
    value = int(rng.choice(_EXTREMES)) & ((1 << 8 * n_bytes) - 1)
    number = value.to_bytes(n_bytes, "little")
    return content[:at] + (number if rng.random() < 0.5 else number[::-1]) + content[at + n_bytes :]


def _truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def _delete(content: bytes, rng: np.random.Generator) -> bytes:
    at = _position(content, rng)
    return content[:at] + content[at + int(rng.integers(1, 64)) :]


def _insert(content: bytes, rng: np.random.Generator) -> bytes:
    at = _position(content, rng)
    return content[:at] + rng.bytes(int(rng.integers(1, 64))) + content[at:]


def _repeat(content: bytes, rng: np.random.Generator) -> bytes:
    at = _position(content, rng)
    piece = content[at : at + int(rng.integers(1, 512))]
    return content[:at] + piece * int(rng.integers(2, 5)) + content[at:]


def _overwrite(content: bytes, rng: np.random.Generator) -> bytes:
    at = _position(content, rng)
    piece = rng.bytes(min(len(content) - at, int(rng.integers(1, 256))))
    return content[:at] + piece + content[at + len(piece) :]


_KINDS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _flip_bit,
    _flip_bit,
    _write_extreme,
    _write_extreme,
    _truncate,
    _delete,
    _insert,
    _repeat,
    _overwrite,
)
