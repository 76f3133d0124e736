"""Embedding a corpus into a dataset: what is planned, what is missing, who makes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from serab_byols.checkpoint import load_model
from serab_byols.corpus.clip_bar import ClipBar
from serab_byols.corpus.dataset.description import RunDescription, check_same_run, read_run
from serab_byols.corpus.dataset.local_storage import LocalStorage
from serab_byols.corpus.dataset.part import (
    Failure,
    NoObserver,
    Observer,
    PartMaker,
    PartResult,
    failures_by_part,
    parts_among,
)
from serab_byols.corpus.dataset.plan import Part, plan_columns, read_parts
from serab_byols.corpus.dataset.planning import append as append_to_plan
from serab_byols.corpus.dataset.planning import begin, check_columns, check_same_plan
from serab_byols.corpus.dataset.ray_engine import RayEngine
from serab_byols.corpus.dataset.remote_storage import RemoteStorage
from serab_byols.corpus.dataset.storage import RUN_FOLDER, Storage
from serab_byols.corpus.embedding import EMBEDDED_IN_PART, check_corpus_normalization
from serab_byols.corpus.error_table import SEGMENT_COLUMNS, write_error_table
from serab_byols.corpus.listing import Input, Inputs
from serab_byols.corpus.pca import Pca, chosen_pca
from serab_byols.corpus.provenance import describe_frames, describe_model
from serab_byols.corpus.remote import file_system, is_url, without_file_scheme
from serab_byols.corpus.tables import COMPRESSIONS, TableFormat, pyarrow_packages
from serab_byols.corpus.vector_format import EMBEDDING_DTYPES, VectorFormat
from serab_byols.errors import InvalidInputError
from serab_byols.hear import FRAME_DURATION_MS, HOP_SIZE_MS
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.model import ByolsModel

PART_SIZE = 512
DTYPES = ("float32", "bfloat16", "float16")
"""Precisions of the encoder."""

ERRORS_FILE = f"{RUN_FOLDER}/errors.csv"

Engine = Callable[[Iterable[Part], PartMaker, Observer], Generator[PartResult, None, None]]
"""Makes parts, in any order, and tells the observer of segments that are done."""


def make_locally(
    parts: Iterable[Part], maker: PartMaker, observer: Observer
) -> Generator[PartResult, None, None]:
    """The local engine: one part after the other, in this process."""
    yield from maker.make(parts, observer)


def _engine_of(engine: Engine | str) -> Engine:
    if not isinstance(engine, str):
        return engine
    if engine == "local":
        return make_locally
    if engine == "ray":
        return RayEngine()
    raise InvalidInputError(f"engine must be 'local', 'ray' or an engine, got {engine!r}")


@dataclass(frozen=True)
class DatasetSummary:
    """What a dataset holds after a run.

    Attributes:
        location: its folder.
        n_segments: in the plan; each has its rows, or is one of the errors.
        n_errors: segments that could not be embedded, or not as a whole.
        n_partial: of those, recordings that were cut off and are embedded as far as they go.
        n_embedded: segments that this run embedded.
        n_parts: files of rows.
    """

    location: str
    n_segments: int
    n_errors: int
    n_partial: int
    n_embedded: int
    n_parts: int


def embed_dataset(
    inputs: Input | Iterable[Input],
    out: str | os.PathLike[str],
    model: ByolsModel | str | os.PathLike[str] = "",
    *,
    timestamps: bool = False,
    frame_duration: float = FRAME_DURATION_MS,
    hop_size: float = HOP_SIZE_MS,
    dense: bool = False,
    dtype: str | None = None,
    part_size: int | None = None,
    compression: str = "snappy",
    embedding_dtype: str = "float32",
    pca: Pca | None = None,
    dimensions: int | None = None,
    append: bool = False,
    retry_errors: bool = False,
    engine: Engine | str = "local",
    observer: Observer | None = None,
    progress: bool = False,
) -> DatasetSummary:
    """Embed a corpus of any size into a folder of Parquet files; a run that ended early goes on.

    The same call makes what is missing, so that a run may be killed at any time and started again. The
    folder opens as one table, for example with ``pandas.read_parquet(out)``.

    Args:
        inputs: files, folders (searched recursively), lists (.csv, .parquet, .npz with a column ``path``, or
            tables of this library), and segments.
        out: folder of the dataset; a new or empty one, or one that this function began.
        model: from :func:`load_model` or :func:`create_model`, or what :func:`load_model` takes.
        timestamps: one row a frame instead of one a segment.
        frame_duration, hop_size: of the frames, in milliseconds.
        dense: approximate frames, as in :func:`get_timestamp_embeddings`.
        dtype: precision of the encoder: ``"float32"``, ``"bfloat16"`` or ``"float16"``; by default the
            model's.
        part_size: segments in a file of rows, and what is lost at most when a run is killed; by default 512,
            or that of the dataset that is there.
        compression: of the files: ``"none"``, ``"snappy"``, ``"zstd"``, ``"lz4"`` or ``"gzip"``.
        embedding_dtype: what is stored: ``"float32"``, ``"float16"`` or ``"int8"``; the latter with a column
            ``scale`` by which a vector is to be multiplied.
        pca: principal components to store instead of all dimensions, from :func:`load_pca`.
        dimensions: store so many principal components: of ``pca``, or of those that come with the default
            weights.
        append: plan those inputs that the dataset does not have yet as further parts.
        retry_errors: try the segments again that could not be embedded, and only those.
        engine: who makes the parts: ``"local"`` (this process), ``"ray"``, or a :class:`RayEngine`.
        observer: is told how the run goes.
        progress: show a bar, as :func:`embed_files` does; not beside an observer, which may have its own.

    Returns:
        What the dataset holds now. Errors of files do not end a run: they are rows of
        ``out/__run/errors.csv``.

    Raises:
        InvalidInputError: another run is writing to ``out``, it was begun with other inputs or options (they
            are named) or is not a dataset; an input lies in it; an impossible option.
        ClusterError: of a cluster; see :class:`RayEngine`.
        MissingExtraError: pyarrow is missing, or ray.

    Example:
        >>> summary = serab_byols.embed_dataset([clip_path], "dataset")
        >>> summary.n_segments, summary.n_errors
        (1, 0)
        >>> pandas.read_parquet("dataset").columns.to_list()
        ['file', 'start', 'end', 'embedding']
    """
    _check_options(part_size, compression, embedding_dtype, dense and not timestamps)
    if progress and observer is not None:
        raise InvalidInputError(
            "progress=True shows a bar by an observer of its own: give one of them, not both"
        )
    engine = _engine_of(engine)
    pyarrow_packages()  # before anything is loaded
    listed = Inputs(inputs, in_order=False)
    storage = open_storage(out)
    _check_folder(storage, listed)
    loaded = model if isinstance(model, ByolsModel) else load_model(model)
    check_corpus_normalization(loaded)
    metadata = describe_model(loaded)
    loaded = _with_dtype(loaded, dtype)
    grid = FrameGrid(frame_duration, hop_size, loaded.sample_rate) if timestamps else None
    pca = chosen_pca(pca, dimensions, metadata)
    vectors = VectorFormat(loaded.embedding_size, embedding_dtype, pca)
    columns = listed.carried_columns()
    wanted = RunDescription(
        table={
            **metadata,
            "dtype": _dtype_name(loaded),
            **describe_frames(grid, dense),
            **({"pca": pca.describe()} if pca else {}),
        },
        storage={
            "part_size": PART_SIZE if part_size is None else part_size,
            "compression": compression,
            "embedding_dtype": embedding_dtype,
            "columns": {name: str(kind or "string") for name, kind in columns.items()},
        },
    )
    with storage.locked(), _observing(observer, progress) as observer:
        existing = read_run(storage)
        if existing and part_size is None:
            wanted.storage["part_size"] = existing.storage["part_size"]
        run = _planned_run(storage, existing, wanted, listed, columns, append=append)
        table_format = TableFormat(
            vectors,
            timestamps,
            run.table,
            plan_columns(storage, run.plan[0]),
            compression,
        )
        maker = PartMaker(loaded, grid, table_format, storage, dense=dense)
        todo = _Todo(storage, run, retry_errors)
        observer.start(run.n_segments, run.n_segments - todo.n_segments, listed.passed_over)
        n_embedded = 0
        with closing(engine(todo.parts(), maker, observer)) as results:
            for result in results:
                n_embedded += result.n_embedded
                for failure in result.failures:
                    observer.fail(failure)
        n_errors, n_partial = _collect_errors(storage)
    return DatasetSummary(storage.location, run.n_segments, n_errors, n_partial, n_embedded, run.n_parts)


@contextmanager
def _observing(observer: Observer | None, progress: bool) -> Iterator[Observer]:
    if progress:
        with ClipBar() as bar:
            yield bar
    else:
        yield observer or NoObserver()


def open_storage(out: str | os.PathLike[str]) -> Storage:
    """A folder, local or by URL.

    Raises:
        InvalidInputError: an unknown kind of URL.
        MissingExtraError: the package for it is missing.
    """
    location = without_file_scheme(os.fspath(out))
    if not is_url(location):
        return LocalStorage(location)
    file_system(location)  # before anything is loaded
    return RemoteStorage(location)


def _check_options(part_size: int | None, compression: str, embedding_dtype: str, dense_scenes: bool) -> None:
    if dense_scenes:
        raise InvalidInputError("dense=True is for frames: it needs timestamps=True")
    if part_size is not None and (not isinstance(part_size, int) or part_size < 1):
        raise InvalidInputError(f"part_size must be a positive number of segments, got {part_size!r}")
    if compression not in COMPRESSIONS:
        raise InvalidInputError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {compression!r}")
    if embedding_dtype not in EMBEDDING_DTYPES:
        raise InvalidInputError(
            f"embedding_dtype must be one of {', '.join(EMBEDDING_DTYPES)}, got {embedding_dtype!r}"
        )


def _check_folder(storage: Storage, inputs: Inputs) -> None:
    for name in inputs.named:
        if storage.contains(name):
            raise InvalidInputError(
                f"the input {name} lies in the output folder {storage.location}: choose another folder"
            )
    stranger = next(storage.names(), None)
    if stranger is not None and read_run(storage) is None:
        raise InvalidInputError(
            f"{storage.location} is not empty and not a dataset of this library (it holds {stranger}): "
            "choose a new folder"
        )


def _with_dtype(model: ByolsModel, dtype: str | None) -> ByolsModel:
    if dtype is None or dtype == _dtype_name(model):
        return model
    if dtype not in DTYPES:
        raise InvalidInputError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return deepcopy(model).to(getattr(torch, dtype))


def _dtype_name(model: ByolsModel) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _planned_run(
    storage: Storage,
    run: RunDescription | None,
    wanted: RunDescription,
    inputs: Inputs,
    columns: dict[str, Any],
    *,
    append: bool,
) -> RunDescription:
    """The run that is there, if the inputs and options are its own; otherwise a new one."""
    part_size = wanted.storage["part_size"]
    if run is None:
        return begin(storage, wanted, inputs, columns, part_size)
    now = wanted.storage["columns"]
    check_columns(run, now, append=append)
    check_same_run(
        storage.location, run, replace(wanted, storage={**wanted.storage, "columns": run.storage["columns"]})
    )
    if append:
        return append_to_plan(storage, run, inputs, plan_columns(storage, run.plan[0]), part_size)
    check_same_plan(storage, run, inputs)
    return run


class _Todo:
    """The parts that are missing, and those whose errors are tried again."""

    def __init__(self, storage: Storage, run: RunDescription, retry_errors: bool) -> None:
        self._storage, self._run = storage, run
        self._made = parts_among(storage.names())
        self._retried: dict[int, tuple[int, ...]] = {}
        if retry_errors:
            self._retried = {part: tuple(failures) for part, failures in failures_by_part(storage)}
        part_size = run.storage["part_size"]
        self.n_segments = sum(len(positions) for positions in self._retried.values())
        for plan_file in run.plan:
            end = plan_file.first_part + plan_file.n_parts
            missing = sum(part not in self._made for part in range(plan_file.first_part, end))
            self.n_segments += missing * part_size
            if end - 1 not in self._made:  # the last one may be shorter
                self.n_segments -= plan_file.n_parts * part_size - plan_file.n_segments

    def parts(self) -> Iterator[Part]:
        """One by one, in order."""
        for plan_file in self._run.plan:
            first, end = plan_file.first_part, plan_file.first_part + plan_file.n_parts
            if all(part in self._made and part not in self._retried for part in range(first, end)):
                continue
            for part in read_parts(self._storage, plan_file):
                if part.number not in self._made:
                    yield part
                elif part.number in self._retried:
                    yield replace(part, only=self._retried[part.number])


def _collect_errors(storage: Storage) -> tuple[int, int]:
    """Gather the errors of all parts in one CSV file; returns how many, and how many have rows."""
    n_partial = 0

    def rows() -> Iterator[Failure]:
        nonlocal n_partial
        for _, failures in failures_by_part(storage):
            n_partial += sum(failure.error.endswith(EMBEDDED_IN_PART) for failure in failures.values())
            yield from failures.values()

    failures = rows()
    first = next(failures, None)
    if first is None:
        storage.remove(ERRORS_FILE)
        return 0, 0
    with storage.writing(ERRORS_FILE) as path:
        n_errors = write_error_table(path, chain([first], failures), SEGMENT_COLUMNS)
    return n_errors, n_partial
