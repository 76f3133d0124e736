"""Making a part: segments in, a file of rows and, where some failed, one of errors out.

Writing a part again changes nothing: its files have the same names, appear whole, and the file of rows says
which file of errors belongs to it. So it does no harm if two workers make the same part, and a part is made
if and only if its file of rows is there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby, islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from serab_byols.corpus.dataset.plan import Part
from serab_byols.corpus.dataset.storage import RUN_FOLDER, Storage
from serab_byols.corpus.decode_ahead import DecodedSegment, decode_ahead
from serab_byols.corpus.embedding import embed_decoded, embedder_of
from serab_byols.corpus.record import RecordChunk
from serab_byols.corpus.segments import Segment
from serab_byols.corpus.tables import ParquetWriter, TableFormat, pyarrow_packages, writing
from serab_byols.errors import SerabByolsError
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.model import ByolsModel

PART_KEY = "serab_byols_part"
"""Metadata of a part's file of rows: how many rows each segment has, and which file of errors is its."""

ERRORS_FOLDER = f"{RUN_FOLDER}/errors"

_ROWS_NAME = re.compile(r"part-(\d{6,})\.parquet")
_ERRORS_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{16})\.arrow")


class Observer(Protocol):
    """Who is told how a run goes."""

    def start(self, n_segments: int, n_done: int, passed_over: Counter[str]) -> None:
        """The run is planned: so many segments in all, so many of them done by earlier runs."""
        ...

    def advance(self, n_segments: int) -> None:
        """So many more segments are done."""
        ...

    def within(self, segment: Segment, done: float) -> None:
        """So much of a long recording is done, from 0 to 1."""
        ...

    def fail(self, failure: Failure) -> None:
        """A segment could not be embedded."""
        ...


class NoObserver:
    """Nobody is told."""

    def start(self, n_segments: int, n_done: int, passed_over: Counter[str]) -> None:
        pass

    def advance(self, n_segments: int) -> None:
        pass

    def within(self, segment: Segment, done: float) -> None:
        pass

    def fail(self, failure: Failure) -> None:
        pass


class Failure(NamedTuple):
    """A segment that could not be embedded, or not as a whole: a row of the errors."""

    file: str
    start: float | None
    end: float | None
    error: str


@dataclass(frozen=True)
class PartResult:
    """What became of a part.

    Attributes:
        number: of the part.
        n_segments: that were embedded, or tried.
        n_embedded: of those, that have rows.
        n_rows: in the whole part.
        failures: of the segments that were tried now.
    """

    number: int
    n_segments: int
    n_embedded: int
    n_rows: int
    failures: list[Failure] = field(default_factory=list)


def rows_name(part: int) -> str:
    """Name of a part's file of rows."""
    return f"part-{part:06d}.parquet"


def parts_among(names: Iterable[str]) -> set[int]:
    """Numbers of the parts whose files of rows are among the names."""
    matches = (_ROWS_NAME.fullmatch(name) for name in names)
    return {int(match[1]) for match in matches if match}


class PartMaker:
    """Makes parts with a model that is prepared once.

    Args:
        model: from :func:`load_model` or :func:`create_model`.
        grid: of the frames; None for scenes.
        table_format: of the rows.
        storage: where the dataset lies.
        dense: approximate frames.
    """

    def __init__(
        self,
        model: ByolsModel,
        grid: FrameGrid | None,
        table_format: TableFormat,
        storage: Storage,
        *,
        dense: bool = False,
    ) -> None:
        self._model, self._grid, self._dense = model, grid, dense
        self._embedder = embedder_of(model, grid, dense=dense)
        self._format = table_format
        self.storage = storage

    def __reduce__(self) -> tuple[Any, ...]:
        """What is prepared of the model is prepared anew where the maker is sent."""
        make = partial(PartMaker, dense=self._dense)
        return make, (self._model, self._grid, self._format, self.storage)

    def on(self, device: str) -> PartMaker:
        """A maker of the same parts on another device."""
        model = deepcopy(self._model).to(device)
        return PartMaker(model, self._grid, self._format, self.storage, dense=self._dense)

    def __call__(self, part: Part) -> PartResult:
        """Make one part."""
        (result,) = self.make([part])
        return result

    def make(self, parts: Iterable[Part], observer: Observer | None = None) -> Iterator[PartResult]:
        """Make parts one after the other; decoding runs ahead into the next one."""
        ahead: deque[Part] = deque()

        def segments() -> Iterator[Segment]:
            for part in parts:
                ahead.append(part)
                yield from _wanted_segments(part)

        decoded = decode_ahead(segments(), self._model.sample_rate)
        for first in decoded:
            part = ahead.popleft()
            of_part = chain([first], islice(decoded, len(part.wanted) - 1))
            yield self._make(part, of_part, first.index, observer or NoObserver())

    def _make(
        self, part: Part, decoded: Iterator[DecodedSegment], first_index: int, observer: Observer
    ) -> PartResult:
        try:
            return self._write(part, decoded, first_index, observer)
        except _PartlyEmbeddedError as partly:
            for _ in decoded:  # the rest of this part
                pass
            part = partly.part_without_segment()
            again = decode_ahead(_wanted_segments(part), self._model.sample_rate)
            return self._make(part, again, 0, NoObserver())  # its segments were counted

    def _write(
        self, part: Part, decoded: Iterator[DecodedSegment], first_index: int, observer: Observer
    ) -> PartResult:
        n_rows = [0] * len(part.segments)
        failures: dict[int, Failure] = {}
        with (
            self.storage.writing(rows_name(part.number)) as path,
            writing(ParquetWriter(path, self._format)) as table,
            _kept_rows(self.storage, part) as kept,
        ):
            for item in embed_decoded(decoded, self._embedder, observer.within):
                position = part.wanted[item.index - first_index]
                kept.copy(table, n_rows, until=position)
                if isinstance(item, RecordChunk):
                    table.add(item.record, part.segments[position].columns)
                    n_rows[position] += np.size(item.record.start)
                    if item.warning:
                        failures[position] = _failure(part.segments[position], item.warning)
                    observer.advance(int(n_rows[position] == item.n_rows))
                elif n_rows[position]:
                    raise _PartlyEmbeddedError(part, position, item.error)
                else:
                    failures[position] = _failure(part.segments[position], str(item.error))
                    observer.advance(1)
            kept.copy(table, n_rows, until=len(n_rows))
            errors_file = _write_failures(self.storage, part.number, failures)
            table.note(PART_KEY, json.dumps({"n_rows": n_rows, "errors": errors_file}))
        n_embedded = sum(n_rows[position] > 0 for position in part.wanted)
        return PartResult(part.number, len(part.wanted), n_embedded, sum(n_rows), list(failures.values()))


class _PartlyEmbeddedError(Exception):
    """A recording failed after some of its frames were written: the part is made again without it."""

    def __init__(self, part: Part, position: int, error: SerabByolsError) -> None:
        super().__init__(str(error))
        self._part, self._position = part, position

    def part_without_segment(self) -> Part:
        segments = list(self._part.segments)
        segment = segments[self._position]
        problem = str(self).removeprefix(f"{segment.path}: ")
        segments[self._position] = replace(segment, problem=problem)
        return replace(self._part, segments=tuple(segments))


def _wanted_segments(part: Part) -> Iterator[Segment]:
    return (part.segments[position] for position in part.wanted)


def _failure(segment: Segment, error: str) -> Failure:
    text = error.encode("utf-8", "backslashreplace").decode()
    return Failure(segment.file, segment.start_s, segment.end_s, text)


class _KeptRows:
    """Rows of a part that were embedded earlier, to be copied in their order; none without a file.

    Args:
        file: the part's file of rows.
        replaced: positions of the segments whose rows are not copied.
    """

    def __init__(self, file: Any = None, replaced: Collection[int] = ()) -> None:
        self._next = 0
        self._n_rows: list[int] = []
        self._replaced = replaced
        self._batches: Iterator[Any] = iter(())
        if file is not None:
            self._n_rows = json.loads(file.metadata.metadata[PART_KEY.encode()])["n_rows"]
            self._batches = file.iter_batches()
        self._rest: Any = None

    def copy(self, table: ParquetWriter, n_rows: list[int], *, until: int) -> None:
        """Copy the rows of the segments before position ``until`` that were not copied yet."""
        if self._n_rows:
            for is_replaced, group in groupby(range(self._next, until), self._replaced.__contains__):
                positions = list(group)
                for rows in self._take(sum(self._n_rows[position] for position in positions)):
                    if not is_replaced:
                        table.add_rows(rows)
                if not is_replaced:
                    n_rows[positions[0] : positions[-1] + 1] = self._n_rows[positions[0] : positions[-1] + 1]
        self._next = until

    def _take(self, n_rows: int) -> Iterator[Any]:
        while n_rows:
            batch = next(self._batches) if self._rest is None else self._rest
            taken = batch.slice(0, n_rows)
            self._rest = batch.slice(n_rows) if len(batch) > n_rows else None
            n_rows -= len(taken)
            yield taken


@contextmanager
def _kept_rows(storage: Storage, part: Part) -> Iterator[_KeptRows]:
    if part.only is None:
        yield _KeptRows()
        return
    _, parquet = pyarrow_packages()
    with storage.reading(rows_name(part.number)) as path, parquet.ParquetFile(path) as file:
        yield _KeptRows(file, part.only)


# Errors


def _write_failures(storage: Storage, part: int, failures: Mapping[int, Failure]) -> str:
    """Write a part's errors to a file that is named after its content; returns the name, empty if none."""
    if not failures:
        return ""
    pa, _ = pyarrow_packages()
    schema = pa.schema(
        [
            ("position", pa.int32()),
            ("file", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("error", pa.string()),
        ]
    )
    rows = [{"position": position, **failure._asdict()} for position, failure in sorted(failures.items())]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    name = f"part-{part:06d}-{digest}.arrow"
    with (
        storage.writing(f"{ERRORS_FOLDER}/{name}") as path,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return name


def failures_by_part(storage: Storage) -> Iterator[tuple[int, dict[int, Failure]]]:
    """Errors of the parts that have some, by position, in order of part.

    Files of errors that no file of rows refers to, left by a killed or a second worker, are removed.
    """
    names = sorted(name for name in storage.names(ERRORS_FOLDER) if _ERRORS_NAME.fullmatch(name))
    current: dict[int, str | None] = {}
    for name in names:
        part = int(name.split("-")[1])
        if part not in current:
            current[part] = _errors_file_of(storage, part)
        if name == current[part]:
            yield part, _read_failures(storage, name)
        elif current[part] is not None:
            storage.remove(f"{ERRORS_FOLDER}/{name}")


def _errors_file_of(storage: Storage, part: int) -> str | None:
    """Which file of errors belongs to a part; None if the part is not made."""
    _, parquet = pyarrow_packages()
    try:
        with storage.opened(rows_name(part)) as file:
            metadata = parquet.read_metadata(file).metadata
    except FileNotFoundError:
        return None
    return json.loads(metadata[PART_KEY.encode()])["errors"]


def _read_failures(storage: Storage, name: str) -> dict[int, Failure]:
    pa, _ = pyarrow_packages()
    with storage.reading(f"{ERRORS_FOLDER}/{name}") as path, pa.OSFile(str(path), "rb") as file:
        rows = pa.ipc.open_file(file).read_all().to_pylist()
    return {row.pop("position"): Failure(**row) for row in rows}
