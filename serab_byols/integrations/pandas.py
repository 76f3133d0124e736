"""Embeddings as a pandas table with the index of audformat and openSMILE. Needs the extra ``pandas``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from serab_byols.corpus.record import Record
from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError, missing_extra

if TYPE_CHECKING:
    import pandas

INDEX_LEVELS = ["file", "start", "end"]
_NEAR_S = 1e-3
"""A segment begins and ends at whole samples, of which there are 1000 a second or more."""


def to_frame(
    records: Record | Iterable[Record], *, index: pandas.Index | None = None, prefix: str = "byols_"
) -> pandas.DataFrame:
    """A table with a row a record, or a row a frame, and a column a dimension of the embedding.

    The index has the levels ``file``, ``start`` and ``end`` of audformat's segmented index, times as
    ``Timedelta``. What ``opensmile.Smile.process_files`` returns has the same, so that
    ``to_frame(records).join(smile.process_files(files))`` puts both side by side.

    Args:
        records: from :func:`serab_byols.embed_file` or :func:`serab_byols.embed_files`; of scenes or of
            frames.
        index: of scenes: the index that :func:`segments_of` made the segments of. Records begin and end at
            whole samples; with it the times are exactly those that were asked for, as openSMILE gives them by
            ``process_index(index, preserve_index=True)``.
        prefix: of the columns' names, ``byols_0`` and so on.

    Returns:
        Embeddings as float32. A table of frames begins with a column ``time``, their centres as
        ``Timedelta``; ``start`` and ``end`` are the frame's window cut to the segment, so that frames of a
        clip that is shorter than a frame differ in ``time`` alone.

    Raises:
        InvalidInputError: no records, scenes mixed with frames, embeddings of different sizes, or an index of
            other segments.
        MissingExtraError: pandas is not installed.

    Example:
        >>> from serab_byols.integrations.pandas import to_frame
        >>> frame = to_frame(serab_byols.embed_file(clip_path, serab_byols.load_model(), end=1.5))
        >>> list(frame.index.names), frame.shape
        (['file', 'start', 'end'], (1, 512))
        >>> frame.index.get_level_values("end")[0]
        Timedelta('0 days 00:00:01.500000')
    """
    pd = _pandas()
    records = [records] if isinstance(records, Record) else list(records)
    _check_alike(records)
    rows = np.concatenate([np.atleast_2d(record.embedding) for record in records])
    if index is None:
        files = np.repeat([record.file for record in records], [np.size(record.start) for record in records])
        index = _segmented(
            files,
            _timedeltas(record.start for record in records),
            _timedeltas(record.end for record in records),
        )
    else:
        index = _completed(index, records)
    frame = pd.DataFrame(rows, index=index, columns=column_names(rows.shape[1], prefix))
    times = [record.time for record in records if record.time is not None]
    if times:
        frame.insert(0, "time", _timedeltas(times))
    return frame


def segments_of(index: pandas.Index) -> list[Segment]:
    """The segments of an audformat index (``file``, or ``file``, ``start`` and ``end``), to be embedded.

    Raises:
        InvalidInputError: an index with other levels.

    Example:
        >>> from serab_byols.integrations.pandas import segments_of, to_frame
        >>> starts, ends = pandas.to_timedelta([0, 0.5], "s"), pandas.to_timedelta([1.1, None], "s")
        >>> levels = [[str(clip_path)] * 2, starts, ends]  # or audformat.segmented_index(files, starts, ends)
        >>> index = pandas.MultiIndex.from_arrays(levels, names=["file", "start", "end"])
        >>> records = serab_byols.embed_files(segments_of(index), serab_byols.load_model())
        >>> to_frame(records, index=index).shape
        (2, 512)
    """
    files, *times = _levels(index)
    starts, ends = [level.total_seconds() for level in times] or [np.full(len(files), np.nan)] * 2

    def given(time: float) -> float | None:
        return None if np.isnan(time) else float(time)

    return [Segment(file, file, given(start), given(end)) for file, start, end in zip(files, starts, ends)]


def column_names(embedding_size: int, prefix: str = "byols_") -> list[str]:
    """``byols_0``, ``byols_1``, ...: a name for each dimension of an embedding."""
    return [f"{prefix}{i}" for i in range(embedding_size)]


def _completed(index: pandas.Index, records: list[Record]) -> pandas.MultiIndex:
    """The index of these records, with times where it has none."""
    files, *times = _levels(index)
    if any(record.time is not None for record in records):
        raise InvalidInputError("index= is for scenes: the frames of a segment have times of their own")
    if list(files) != [record.file for record in records]:
        raise InvalidInputError(
            f"index= has {len(files)} segments of other files than the {len(records)} records, "
            "or in another order"
        )
    measured = [
        _timedeltas(record.start for record in records),
        _timedeltas(record.end for record in records),
    ]
    given = [level.where(level.notna(), found) for level, found in zip(times, measured)] or measured
    if any(np.abs((a - b).total_seconds()).max() > _NEAR_S for a, b in zip(given, measured)):
        raise InvalidInputError(
            "index= has other times than the records: pass segments_of(index) to embed_files"
        )
    return _segmented(files, *given)


def _segmented(files: Any, starts: pandas.Index, ends: pandas.Index) -> pandas.MultiIndex:
    pd = _pandas()
    return pd.MultiIndex.from_arrays([pd.array(files, dtype="string"), starts, ends], names=INDEX_LEVELS)


def _timedeltas(seconds: Iterable[Any]) -> pandas.TimedeltaIndex:
    flat = np.concatenate([np.atleast_1d(each) for each in seconds])
    return _pandas().to_timedelta(flat, unit="s").as_unit("ns")  # as openSMILE's, to the nanosecond


def _levels(index: pandas.Index) -> list[pandas.Index]:
    names = list(getattr(index, "names", []))
    if names not in (INDEX_LEVELS, INDEX_LEVELS[:1]):
        raise InvalidInputError(
            f"an index has the levels {INDEX_LEVELS} or 'file', got {names or type(index)}"
        )
    return [index.get_level_values(name) for name in names]


def _check_alike(records: list[Record]) -> None:
    if not records:
        raise InvalidInputError("to_frame needs at least one record: how many columns there are is not known")
    wrong = next((record for record in records if not isinstance(record, Record)), None)
    if wrong is not None:
        raise InvalidInputError(
            f"to_frame takes records of embed_file or embed_files, got {type(wrong).__name__}"
        )
    kinds = {(record.time is not None, record.embedding.shape[-1]) for record in records}
    if len(kinds) > 1:
        described = sorted(f"{'frames' if frames else 'scenes'} of size {size}" for frames, size in kinds)
        raise InvalidInputError(f"a table holds one kind of embedding, got {' and '.join(described)}")


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise missing_extra("pandas", "pandas", "a table with an index") from error
    return pandas
