"""Embeddings as a pandas table with the index of audformat and openSMILE. Needs the extra ``pandas``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from serab_byols.corpus.record import Record
from serab_byols.errors import InvalidInputError, missing_extra


def to_frame(records: Record | Iterable[Record], prefix: str = "byols_") -> Any:
    """A DataFrame with a row a record, or a row a frame, and a column a dimension of the embedding.

    The index has the levels ``file``, ``start`` and ``end`` of an audformat segmented index, times as
    ``Timedelta``: what ``opensmile.Smile.process_files`` returns has the same, so that
    ``to_frame(records).join(smile.process_files(files))`` puts both side by side.

    Args:
        records: from :func:`serab_byols.embed_file` or :func:`serab_byols.embed_files`; of scenes or of frames.
        prefix: of the columns' names, ``byols_0`` and so on.

    Returns:
        A ``pandas.DataFrame`` of float32. That of frames begins with a column ``time``, their centres as
        ``Timedelta``; ``start`` and ``end`` are the frame's window cut to the segment, so that frames of a clip
        that is shorter than a frame differ in ``time`` alone.

    Raises:
        InvalidInputError: no records, scenes mixed with frames, or embeddings of different sizes.
        MissingExtraError: pandas is not installed.

    Example:
        >>> from serab_byols.integrations.pandas import to_frame
        >>> record = serab_byols.embed_file(clip_path, serab_byols.load_model(), start=0.5, end=1.5)
        >>> frame = to_frame(record)
        >>> frame.index.names, frame.shape
        (FrozenList(['file', 'start', 'end']), (1, 512))
        >>> frame.index.get_level_values("end")[0]
        Timedelta('0 days 00:00:01.500000')
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise missing_extra("pandas", "pandas", "to_frame") from error
    records = [records] if isinstance(records, Record) else list(records)
    _check_alike(records)

    def timedeltas(seconds: list[Any]) -> Any:
        flat = np.concatenate([np.atleast_1d(each) for each in seconds])
        return pd.to_timedelta(flat, unit="s").as_unit("ns")  # as openSMILE's, to the nanosecond

    rows = np.concatenate([np.atleast_2d(record.embedding) for record in records])
    n_rows = [np.size(record.start) for record in records]
    index = pd.MultiIndex.from_arrays(
        [
            pd.array(np.repeat([record.file for record in records], n_rows), dtype="string"),
            timedeltas([record.start for record in records]),
            timedeltas([record.end for record in records]),
        ],
        names=["file", "start", "end"],
    )
    frame = pd.DataFrame(rows, index=index, columns=column_names(rows.shape[1], prefix))
    times = [record.time for record in records if record.time is not None]
    if times:
        frame.insert(0, "time", timedeltas(times))
    return frame


def column_names(embedding_size: int, prefix: str = "byols_") -> list[str]:
    """``byols_0``, ``byols_1``, ...: a name for each dimension of an embedding."""
    return [f"{prefix}{i}" for i in range(embedding_size)]


def _check_alike(records: list[Record]) -> None:
    if not records:
        raise InvalidInputError("to_frame needs at least one record: how many columns there are is not known")
    wrong = next((record for record in records if not isinstance(record, Record)), None)
    if wrong is not None:
        raise InvalidInputError(f"to_frame takes records of embed_file or embed_files, got {type(wrong).__name__}")
    kinds = {(record.time is not None, record.embedding.shape[-1]) for record in records}
    if len(kinds) > 1:
        described = sorted(f"{'frames' if frames else 'scenes'} of size {size}" for frames, size in kinds)
        raise InvalidInputError(f"a table holds one kind of embedding, got {' and '.join(described)}")
