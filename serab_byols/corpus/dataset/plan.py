"""The plan of a dataset: every segment in order, with the number of its part.

A plan is one or more Arrow files in ``__run/plan``, one for the first run and one for each time that inputs
were appended. A part is a record batch in one of them, so that any part can be read without the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from serab_byols.corpus.dataset.storage import RUN_FOLDER, Storage
from serab_byols.corpus.segments import Segment
from serab_byols.corpus.tables import pyarrow_packages

_HASH_BYTES = 16


@dataclass(frozen=True)
class Part:
    """The unit of work: some segments, whose rows go to one file.

    Attributes:
        number: in the dataset.
        segments: in order.
        only: positions of the segments to embed where the rest of the part's rows are there already;
            None for all of them.
    """

    number: int
    segments: tuple[Segment, ...]
    only: tuple[int, ...] | None = None

    @property
    def wanted(self) -> tuple[int, ...]:
        """Positions of the segments to embed."""
        return tuple(range(len(self.segments))) if self.only is None else self.only


@dataclass(frozen=True)
class PlanFile:
    """What a run knows of one file of its plan.

    Attributes:
        name: in ``__run/plan``.
        first_part, n_parts: numbers of its parts.
        n_segments: in all of them.
        digest: of all segments, in any order.
    """

    name: str
    first_part: int
    n_parts: int
    n_segments: int
    digest: str

    @property
    def path(self) -> str:
        """Name in the storage."""
        return f"{RUN_FOLDER}/plan/{self.name}"


class Digest:
    """A number that names a collection of segments, in whatever order they come."""

    def __init__(self) -> None:
        self.n_segments = 0
        self._sum = 0

    def add(self, segment: Segment) -> None:
        """Count a segment in."""
        self.n_segments += 1
        self._sum += int.from_bytes(hash_of(segment), "big")

    def merge(self, n_segments: int, digest: str) -> None:
        """Count in what another digest has counted."""
        self.n_segments += n_segments
        self._sum += int(digest, 16)

    def __str__(self) -> str:
        return f"{self._sum % (1 << 8 * _HASH_BYTES):0{2 * _HASH_BYTES}x}"


def key_of(segment: Segment) -> bytes:
    """Names a file, or a segment of one."""
    return _hashed([segment.file, segment.start_s, segment.end_s])


def hash_of(segment: Segment) -> bytes:
    """Names a segment with all that a list says of it."""
    columns = [[name, value] for name, value in sorted(segment.columns.items()) if value is not None]
    return _hashed([segment.file, segment.start_s, segment.end_s, segment.problem, columns])


def _hashed(value: list[Any]) -> bytes:
    text = json.dumps(value, default=repr).encode("ascii")
    return hashlib.blake2b(text, digest_size=_HASH_BYTES).digest()


def write_plan(
    storage: Storage,
    name: str,
    segments: Iterable[Segment],
    columns: dict[str, Any],
    *,
    part_size: int,
    first_part: int,
) -> PlanFile:
    """Write a file of the plan, of segments that come one by one; without any there is no file."""
    pa, _ = pyarrow_packages()
    schema = _schema(columns)
    segments, digest, n_parts = iter(segments), Digest(), 0
    plan_file = PlanFile(name, first_part, 0, 0, "")
    first = list(islice(segments, part_size))
    if not first:
        return plan_file
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        storage.writing(plan_file.path) as path,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, schema, options=options) as writer,
    ):
        of_part = first
        while of_part:
            rows = [_as_row(segment, first_part + n_parts, columns) for segment in of_part]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
            for segment in of_part:
                digest.add(segment)
            n_parts += 1
            of_part = list(islice(segments, part_size))
    return PlanFile(name, first_part, n_parts, digest.n_segments, str(digest))


def plan_columns(storage: Storage, plan_file: PlanFile) -> dict[str, Any]:
    """Further columns of the segments and their Arrow types."""
    pa, _ = pyarrow_packages()
    with (
        storage.reading(plan_file.path) as path,
        pa.OSFile(str(path), "rb") as file,
        pa.ipc.open_file(file) as reader,
    ):
        schema = reader.schema
    if "columns" not in schema.names:
        return {}
    return {field.name: field.type for field in schema.field("columns").type}


def read_parts(storage: Storage, plan_file: PlanFile) -> Iterator[Part]:
    """The parts of a file of the plan, one by one."""
    with storage.reading(plan_file.path) as path:
        yield from _parts_in(path)


def _parts_in(path: Path) -> Iterator[Part]:
    pa, _ = pyarrow_packages()
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
        for i in range(reader.num_record_batches):
            rows = reader.get_batch(i).to_pylist()
            yield Part(rows[0]["part"], tuple(_as_segment(row) for row in rows))


def _schema(columns: dict[str, Any]) -> Any:
    pa, _ = pyarrow_packages()
    fields = [
        ("part", pa.int32()),
        ("file", pa.string()),
        ("path", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("problem", pa.string()),
    ]
    if columns:
        fields.append(("columns", pa.struct([(name, kind or pa.string()) for name, kind in columns.items()])))
    return pa.schema(fields)


def _as_row(segment: Segment, part: int, columns: dict[str, Any]) -> dict[str, Any]:
    row = {
        "part": part,
        "file": segment.file,
        "path": str(segment.path),
        "start": segment.start_s,
        "end": segment.end_s,
        "problem": segment.problem,
    }
    if columns:
        row["columns"] = {name: segment.columns.get(name) for name in columns}
    return row


def _as_segment(row: dict[str, Any]) -> Segment:
    columns = row.get("columns") or {}
    return Segment(row["file"], row["path"], row["start"], row["end"], row["problem"], columns)


def plannable(segment: Segment) -> Segment:
    """The segment with names that a table can hold: a file name need not be valid UTF-8."""
    try:
        segment.file.encode("utf-8")
        str(segment.path).encode("utf-8")
    except UnicodeEncodeError:
        file, path = (
            name.encode("utf-8", "backslashreplace").decode() for name in (segment.file, str(segment.path))
        )
        problem = segment.problem or "the file's name is not valid UTF-8, so no table can hold it"
        return replace(segment, file=file, path=path, problem=problem)
    return segment
