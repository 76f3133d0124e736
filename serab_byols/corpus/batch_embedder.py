"""Embedding batches of rows, for pipelines that are not ours: Ray Data and whatever else maps batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from serab_byols.checkpoint import load_model
from serab_byols.corpus.decode_ahead import DecodedSegment, decode_ahead
from serab_byols.corpus.decoding import resample_array
from serab_byols.corpus.embedding import check_corpus_normalization, embed_decoded, embedder_of
from serab_byols.corpus.lists import segment_in_row
from serab_byols.corpus.record import RecordChunk
from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError
from serab_byols.model import ByolsModel

_OURS = ("embedding", "error")


class BatchEmbedder:
    """Scene embeddings of batches of rows; the class to give to ``map_batches`` of a Ray dataset.

    The model is loaded once, when the object is made: pass the class and its arguments, and every actor makes
    its own. A row that cannot be embedded does not end anything: it has NaN and its error.

    Args:
        model: what :func:`load_model` takes, or a model.
        samples: name of the column with samples: floating point (n_samples,), or (n_channels, n_samples). By
            default the rows name files: columns ``path`` or ``file``, and ``start`` and ``end`` in seconds if
            they are there.
        sample_rate: name of the column with the rates of the samples, or the rate of all of them, in Hz.
        device: of the model, where it is loaded here.

    Raises:
        InvalidInputError: a normalisation that is shared between clips.

    Example:
        >>> embed = BatchEmbedder()
        >>> rows = embed({"path": np.array([clip_path, "missing.wav"])})
        >>> rows["embedding"].shape, list(rows["error"])
        ((2, 512), ['', 'missing.wav: no such file'])
    """

    def __init__(
        self,
        model: ByolsModel | str | os.PathLike[str] = "",
        *,
        samples: str | None = None,
        sample_rate: str | int = "sample_rate",
        device: str = "cpu",
    ) -> None:
        self._model = model if isinstance(model, ByolsModel) else load_model(model, device=device)
        check_corpus_normalization(self._model)
        self._embedder = embedder_of(self._model, None)
        self._samples, self._rate = samples, sample_rate

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of the batch (B rows) with two more.

        Returns:
            ``embedding``: float32 (B, D), NaN where nothing could be embedded; ``error``: text (B,), empty
            where all went well. A recording that was cut off has both.

        Raises:
            InvalidInputError: a column is missing, or the batch has one of these names already.
        """
        taken = [name for name in _OURS if name in batch]
        if taken:
            raise InvalidInputError(f"the rows have a column {taken[0]!r} already: rename or drop it")
        decoded = self._decoded_files(batch) if self._samples is None else self._decoded_samples(batch)
        n_rows = len(next(iter(batch.values()), ()))
        embedding = np.full((n_rows, self._model.scene_embedding_size), np.nan, np.float32)
        errors = np.full(n_rows, "", object)
        for item in embed_decoded(decoded, self._embedder):
            if isinstance(item, RecordChunk):
                embedding[item.index] = item.record.embedding
                error: object = item.warning or ""
            else:
                error = item.error
            errors[item.index] = str(error).encode("utf-8", "backslashreplace").decode()
        return {**batch, "embedding": embedding, "error": errors}

    def _decoded_files(self, batch: Mapping[str, Any]) -> Iterator[DecodedSegment]:
        name = "path" if "path" in batch else "file"
        columns = {name: _column(batch, name)} | {key: batch[key] for key in ("start", "end") if key in batch}
        values = zip(*(np.asarray(column).tolist() for column in columns.values()))
        segments = (segment_in_row(dict(zip(columns, row)), "the batch") for row in values)
        return decode_ahead(segments, self._model.sample_rate)

    def _decoded_samples(self, batch: Mapping[str, Any]) -> Iterator[DecodedSegment]:
        arrays = _column(batch, str(self._samples))
        rates = _column(batch, self._rate) if isinstance(self._rate, str) else [self._rate] * len(arrays)
        return (self._resampled(i, array, rate) for i, (array, rate) in enumerate(zip(arrays, rates)))

    def _resampled(self, index: int, samples: Any, rate_hz: Any) -> DecodedSegment:
        segment = Segment("", "")
        try:
            mono = resample_array(np.asarray(samples), rate_hz, self._model.sample_rate)
        except (ValueError, TypeError) as error:  # numpy's too: whatever is wrong with a row, it is its error
            return DecodedSegment(index, segment, error=InvalidInputError(str(error)))
        return DecodedSegment(index, segment, 0.0, len(mono) / self._model.sample_rate, mono)


def _column(batch: Mapping[str, Any], name: str) -> Any:
    if name not in batch:
        raise InvalidInputError(f"the rows need a column {name!r}, they have {', '.join(batch) or 'none'}")
    return batch[name]
