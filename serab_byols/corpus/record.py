"""What embedding a file gives: a record, or chunks of one that is too long to hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain

import numpy as np

from serab_byols.corpus.segments import Segment
from serab_byols.display.html_table import html_table
from serab_byols.display.value_sketch import value_sketch
from serab_byols.errors import SerabByolsError


@dataclass(frozen=True, eq=False)
class Record:
    """The embedding of a file or a segment, or of all its frames.

    Attributes:
        file: name as given.
        start, end: seconds in the file: floats, or float64 (T,) for frames, where they are the
            frame's window cut to the segment.
        embedding: float32 (D,), or (T, D) for frames.
        time: centres of the frames in seconds, float64 (T,); None for scenes.
    """

    file: str
    start: float | np.ndarray
    end: float | np.ndarray
    embedding: np.ndarray
    time: np.ndarray | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    def __repr__(self) -> str:
        frames = "" if self.time is None else f"{len(self.time)} frames, "
        start, end = np.min(self.start), np.max(self.end)
        return f"Record({self.file!r}, {start:g} to {end:g} s, {frames}embedding {self.embedding.shape})"

    def _repr_html_(self) -> str:
        facts = {"file": self.file, "segment": f"{np.min(self.start):g} to {np.max(self.end):g} s"}
        n_values, low, high = self.embedding.shape[-1], self.embedding.min(), self.embedding.max()
        values = f"{n_values} values from {low:.3g} to {high:.3g}"
        if self.time is None:
            facts |= {"embedding": values, "values": value_sketch(self.embedding)}
        else:
            norms = np.linalg.norm(self.embedding, axis=1)
            facts |= {
                "frames": f"{len(self.time)}, centred at {self.time[0]:g} to {self.time[-1]:g} s",
                "embedding": f"{values}, for each frame",
                "norm over time": value_sketch(norms),
            }
        return html_table("Record", facts)


@dataclass(frozen=True)
class RecordChunk:
    """A record, or some consecutive rows of a long recording's.

    Attributes:
        index: position of the segment in what was asked for.
        n_rows: rows of the whole record.
        record: the rows of this chunk.
        warning: with the last chunk, why the recording is not whole.
    """

    index: int
    n_rows: int
    record: Record
    warning: str | None = None


@dataclass(frozen=True)
class FailedSegment:
    """A segment that could not be embedded, at position ``index`` of what was asked for."""

    index: int
    segment: Segment
    error: SerabByolsError


def joined(chunks: Iterator[RecordChunk]) -> Record:
    """The chunks of one recording as one record; each is copied and released as it comes."""
    first = next(chunks)
    record = first.record
    if record.time is None or len(record.time) == first.n_rows:
        return record
    embedding = np.empty((first.n_rows, record.embedding.shape[1]), np.float32)
    start, end, time = np.empty((3, first.n_rows))
    n_done = 0
    for chunk in chain([first], chunks):
        record = chunk.record
        rows = slice(n_done, n_done + len(record.embedding))
        embedding[rows], time[rows] = record.embedding, record.time
        start[rows], end[rows] = record.start, record.end
        n_done = rows.stop
    return Record(record.file, start, end, embedding, time)
