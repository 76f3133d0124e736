"""Where the steps of an encoder's layers lie in time, and chunks of a clip that give those of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from serab_byols.frontend import HOP_SAMPLES, SAMPLE_RATE_HZ, WINDOW_SAMPLES

WHOLE_CLIP = math.inf
"""Receptive field of a layer whose steps depend on every column."""

COLUMN_MS = 1000 * HOP_SAMPLES / SAMPLE_RATE_HZ
WINDOW_MS = 1000 * WINDOW_SAMPLES / SAMPLE_RATE_HZ


class Operation(NamedTuple):
    """What a convolution or a pooling does along time, in steps of its input."""

    kernel: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Layer:
    """A layer whose steps can be had as features, and their geometry in log-mel columns, 10 ms each.

    Step ``i`` is centred on column ``centre + i * stride`` and depends on ``receptive`` columns around it.

    Attributes:
        name: what users call it.
        stride: from one step to the next.
        centre: of step 0.
        receptive: width of the receptive field, :data:`WHOLE_CLIP` where there is no bound.
    """

    name: str
    stride: int
    centre: float
    receptive: float

    @property
    def stride_ms(self) -> float:
        """From one step to the next."""
        return self.stride * COLUMN_MS

    @property
    def receptive_ms(self) -> float:
        """Width of the receptive field on the waveform: columns, and half a window at either end."""
        return (self.receptive - 1) * COLUMN_MS + WINDOW_MS

    def times_ms(self, n_steps: int) -> torch.Tensor:
        """Centres (n_steps,) of the first steps, float32."""
        return (self.centre + self.stride * torch.arange(n_steps, dtype=torch.float32)) * COLUMN_MS

    @property
    def reach_before(self) -> float:
        """Columns before its first own one that a step depends on."""
        return (self.receptive - 1) / 2 - self.centre

    @property
    def reach_after(self) -> float:
        """Columns after its last own one that a step depends on."""
        return (self.receptive - 1) / 2 + self.centre - (self.stride - 1)


def layers_along(path: Iterable[Operation | str]) -> dict[str, Layer]:
    """The layers of a stack of operations, by name, in order.

    Args:
        path: operations from the log-mel on; a text names the layer that ends there.

    Example:
        >>> layers_along([Operation(3, padding=1), Operation(2, stride=2), "conv1"])["conv1"]
        Layer(name='conv1', stride=2, centre=0.5, receptive=4)
    """
    layers = {}
    stride, centre, receptive = 1, 0.0, 1
    for step in path:
        if isinstance(step, str):
            layers[step] = Layer(step, stride, centre, receptive)
            continue
        centre += ((step.kernel - 1) / 2 - step.padding) * stride
        receptive += (step.kernel - 1) * stride
        stride *= step.stride
    return layers


@dataclass(frozen=True)
class Chunk:
    """A part of a spectrogram, with a halo on either side that its steps depend on.

    Attributes:
        first, last: columns ``first`` to ``last - 1``, halo included.
        start: first column of the part itself.
        end: column after it; None for the last part, which has all that remains.
    """

    first: int
    last: int
    start: int
    end: int | None

    def own(self, steps: torch.Tensor, stride: int) -> torch.Tensor:
        """Of the steps (b, t, C) of the columns with halo those of the part itself."""
        skip = (self.start - self.first) // stride
        return steps[:, skip : None if self.end is None else skip + (self.end - self.start) // stride]


def in_chunks(n_columns: int, chunk_columns: int, halo_before: int, halo_after: int) -> Iterator[Chunk]:
    """Chunks of a spectrogram in order, whose own steps together are those of the whole.

    Args:
        n_columns: of the spectrogram.
        chunk_columns: of a part; a multiple of every stride.
        halo_before: at least the reach of a step before its own columns, and a multiple of every stride.
        halo_after: at least the reach of a step after its own columns.
    """
    # The remainder joins the last whole chunk, so that no chunk is too short to encode.
    starts = range(0, max(n_columns - chunk_columns, 0) + 1, chunk_columns)
    for start in starts:
        first, end = max(0, start - halo_before), start + chunk_columns
        if start == starts[-1]:
            yield Chunk(first, n_columns, start, None)
        else:
            yield Chunk(first, min(n_columns, end + halo_after), start, end)
