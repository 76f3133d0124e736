"""Files, and arrays at any sample rate, to embeddings."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, groupby
from operator import attrgetter

import numpy as np
import torch

from serab_byols.corpus.decoding import AudioClip, resample_array
from serab_byols.corpus.record import Record
from serab_byols.corpus.segments import Segment, as_segment
from serab_byols.errors import AudioFileError, InvalidInputError, SerabByolsError
from serab_byols.hear import (
    FRAME_DURATION_MS,
    HOP_SIZE_MS,
    embed_scene_stream,
    get_scene_embeddings,
    get_timestamp_embeddings,
)
from serab_byols.inference.frame_grid import MS_PER_S, FrameGrid
from serab_byols.inference.runners import computing, make_runner
from serab_byols.inference.timestamps import clip_statistics, dense_runner, frame_embeddings
from serab_byols.model import ByolsModel
from serab_byols.normalization import Statistics

N_DECODING_THREADS = 2
STREAM_S = 60.0
"""A longer recording is streamed: it is decoded block by block and never in memory as a whole."""

_CLIPS_AHEAD = 64
_BATCH_S = 300.0
"""Clips are decoded ahead and embedded together until they hold this many seconds."""


@dataclass(frozen=True)
class Part:
    """A record, or some rows of a long recording's, which come one after another.

    Attributes:
        index: the recording's position in what was asked for.
        n_rows: of the recording in all.
        record: some of them, or all.
    """

    index: int
    n_rows: int
    record: Record


@dataclass(frozen=True)
class _Decoded:
    """A segment as its file gave it: samples (n,) at the model's rate, None if long; or an error."""

    index: int
    segment: Segment
    start_s: float = 0.0
    end_s: float = 0.0
    samples: np.ndarray | None = None
    error: SerabByolsError | None = None


ErrorHandler = Callable[[Segment, SerabByolsError], None]


def embed_audio(samples: np.ndarray | torch.Tensor, sample_rate: int, model: ByolsModel) -> torch.Tensor:
    """Scene embedding of an array at any sample rate.

    Args:
        samples: (n_samples,), or (n_channels, n_samples), which is mixed to mono; floating point.
        sample_rate: of ``samples``, in Hz; resampled (soxr, high quality) to the model's.
        model: from :func:`load_model` or :func:`create_model`.

    Returns:
        (D,) float32, on the model's device.

    Raises:
        InvalidInputError: another shape or type, no samples, NaN or infinity, or an impossible rate.
    """
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu().numpy()
    mono = resample_array(np.asarray(samples), sample_rate, model.sample_rate)
    return get_scene_embeddings([mono], model)[0]


def embed_file(
    path: str | os.PathLike[str],
    model: ByolsModel,
    *,
    start: float | None = None,
    end: float | None = None,
    timestamps: bool = False,
    frame_duration: float = FRAME_DURATION_MS,
    hop_size: float = HOP_SIZE_MS,
    dense: bool = False,
) -> Record:
    """Embedding of an audio file of any format, rate and channel count.

    Args:
        path: any format that libsndfile reads; mixed to mono and resampled.
        model: from :func:`load_model` or :func:`create_model`.
        start, end: segment in seconds; by default the whole file.
        timestamps: one embedding a frame instead of one in all.
        frame_duration, hop_size: of the frames, in milliseconds.
        dense: approximate frames, as in :func:`get_timestamp_embeddings`.

    Raises:
        AudioFileError: missing, unreadable, empty, or the segment is outside of it.
        InvalidInputError: a normalisation that is shared between clips, an impossible frame.
    """
    segment = Segment(os.fspath(path), as_segment(path).path, start, end)
    (record,) = embed_files(
        [segment],
        model,
        timestamps=timestamps,
        frame_duration=frame_duration,
        hop_size=hop_size,
        dense=dense,
    )
    return record


def embed_files(
    paths: Iterable[str | os.PathLike[str] | Segment],
    model: ByolsModel,
    *,
    timestamps: bool = False,
    frame_duration: float = FRAME_DURATION_MS,
    hop_size: float = HOP_SIZE_MS,
    dense: bool = False,
    on_error: ErrorHandler | None = None,
) -> Iterator[Record]:
    """Embeddings of many files, in their order; decoding runs ahead in threads.

    Args:
        paths: files, or segments of files.
        model: from :func:`load_model` or :func:`create_model`.
        timestamps: one embedding a frame instead of one a file.
        frame_duration, hop_size: of the frames, in milliseconds.
        dense: approximate frames, as in :func:`get_timestamp_embeddings`.
        on_error: called with the segment and the error of a file that cannot be embedded, which is
            then passed over; by default the error is raised.

    Yields:
        A :class:`Record` a file.

    Raises:
        AudioFileError: without ``on_error``: a file is missing, unreadable, empty or too short.
        InvalidInputError: a normalisation that is shared between clips, an impossible frame.
    """
    if isinstance(paths, (str, os.PathLike)):  # a string would be taken letter by letter
        raise InvalidInputError(f"embed_files takes a list of paths, got {paths!r}; for one use embed_file")
    check_corpus_normalization(model)
    grid = FrameGrid(frame_duration, hop_size, model.sample_rate) if timestamps else None
    parts = embed_parts(paths, model, grid, dense=dense, on_error=on_error)
    return (_joined(of_one) for _, of_one in groupby(parts, key=attrgetter("index")))


def check_corpus_normalization(model: ByolsModel) -> None:
    """Refuse the rules by which a file's embedding would depend on its neighbours."""
    rule = model.resolved_normalization
    if rule in ("batch", "hear2021"):
        raise InvalidInputError(
            f"normalization {rule!r} shares statistics between the clips of one call, which has no "
            "meaning for a corpus of files: use 'auto', 'clip' or fixed (mean, std)"
        )


def embed_parts(
    paths: Iterable[str | os.PathLike[str] | Segment],
    model: ByolsModel,
    grid: FrameGrid | None,
    *,
    dense: bool = False,
    on_error: ErrorHandler | None = None,
) -> Iterator[Part]:
    """As :func:`embed_files`, but a long recording's frames come in several records.

    Args:
        paths, model, dense, on_error: as for :func:`embed_files`.
        grid: of the frames; None for scenes.

    Yields:
        A :class:`Part`. Before the first of a recording all of it has been decoded once, so that a
        damaged one leaves no rows behind.
    """
    if grid is not None and dense:
        dense_runner(model, make_runner(model))
    batch: list[_Decoded] = []
    for decoded in _decoded_ahead(paths, model.sample_rate):
        if batch and (decoded.samples is None or _total_s(batch) >= _BATCH_S or len(batch) >= _CLIPS_AHEAD):
            yield from _embed_batch(batch, model, grid, dense)
            batch = []
        try:
            if decoded.error is not None:
                raise decoded.error
            if decoded.samples is not None:
                batch.append(decoded)
                continue
            yield from _embed_stream(decoded, model, grid, dense)
        except SerabByolsError as error:
            if on_error is None:
                raise
            on_error(decoded.segment, error)
    if batch:
        yield from _embed_batch(batch, model, grid, dense)


def _total_s(batch: list[_Decoded]) -> float:
    return sum(decoded.end_s - decoded.start_s for decoded in batch)


def _joined(parts: Iterator[Part]) -> Record:
    """The records of one recording as one, each copied and let go as it comes."""
    head = next(parts)
    record = head.record
    if record.time is None or len(record.time) == head.n_rows:
        return record
    embedding = np.empty((head.n_rows, record.embedding.shape[1]), np.float32)
    start, end, time = np.empty((3, head.n_rows))
    done = 0
    for part in chain([head], parts):
        record = part.record
        rows = slice(done, done + len(record.embedding))
        embedding[rows], time[rows] = record.embedding, record.time
        start[rows], end[rows] = record.start, record.end
        done = rows.stop
    return Record(record.file, start, end, embedding, time)


def _decoded_ahead(
    paths: Iterable[str | os.PathLike[str] | Segment], sample_rate_hz: int
) -> Iterator[_Decoded]:
    """Decode in threads (libsndfile and soxr release the interpreter lock), some clips ahead."""
    with ThreadPoolExecutor(N_DECODING_THREADS, thread_name_prefix="decode") as pool:
        waiting: deque[Future[_Decoded]] = deque()
        try:
            for index, item in enumerate(paths):
                waiting.append(pool.submit(_decode, index, as_segment(item), sample_rate_hz))
                if len(waiting) > _CLIPS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode(index: int, segment: Segment, sample_rate_hz: int) -> _Decoded:
    """A segment's samples, unless it is long, which is left to be streamed, or bad."""
    try:
        _check_name(segment)
        with AudioClip(segment.path, segment.start_s, segment.end_s) as clip:
            is_long = clip.end_s - clip.start_s > STREAM_S
            samples = None if is_long else clip.read(sample_rate_hz)
            return _Decoded(index, segment, clip.start_s, clip.end_s, samples)
    except SerabByolsError as error:
        return _Decoded(index, segment, error=error)


def _check_name(segment: Segment) -> None:
    if segment.problem:
        raise AudioFileError(f"{segment.file or '(no name)'}: {segment.problem}")
    try:
        segment.file.encode("utf-8")
    except UnicodeEncodeError as error:
        raise AudioFileError(
            f"{segment.file!r}: the file's name is not valid UTF-8, so no table can hold it"
        ) from error


def _embed_batch(
    batch: list[_Decoded], model: ByolsModel, grid: FrameGrid | None, dense: bool
) -> Iterator[Part]:
    """Records of clips that are in memory."""
    clips = [decoded.samples for decoded in batch if decoded.samples is not None]
    if grid is None:
        embeddings = get_scene_embeddings(clips, model).cpu().numpy()
        for decoded, embedding in zip(batch, embeddings):
            yield Part(decoded.index, 1, _scene_record(decoded, embedding))
        return
    frames, _ = get_timestamp_embeddings(clips, model, grid.frame_ms, grid.hop_ms, dense=dense)
    for decoded, embeddings in zip(batch, frames):
        record = _frames_record(decoded, grid, embeddings.cpu().numpy(), 0)
        yield Part(decoded.index, len(embeddings), record)


def _embed_stream(
    decoded: _Decoded, model: ByolsModel, grid: FrameGrid | None, dense: bool
) -> Iterator[Part]:
    """Records of a long recording that is never in memory as a whole."""
    segment = decoded.segment
    with (
        AudioClip(segment.path, segment.start_s, segment.end_s) as clip,
        ThreadPoolExecutor(1, thread_name_prefix="decode") as pool,
    ):

        def source() -> Iterator[torch.Tensor]:
            for block in _one_ahead(clip.blocks(model.sample_rate), pool):
                yield torch.from_numpy(block).to(model.device)

        if grid is None:
            with computing():
                embedding = embed_scene_stream(source, model).cpu().numpy()
            yield Part(decoded.index, 1, _scene_record(replace(decoded, end_s=clip.end_s), embedding))
            return
        with computing():
            statistics, n_samples = clip_statistics(source, model)  # finds damage before the first row
            rule = model.resolved_normalization
            statistics = rule if isinstance(rule, Statistics) else statistics
            blocks = frame_embeddings(source, model, make_runner(model), grid, statistics, dense)
        decoded = replace(decoded, end_s=clip.end_s)  # known since all of it has been decoded
        n_frames, first = grid.n_frames(n_samples), 0
        while first < n_frames:
            with computing():  # not across the yield, where the caller computes
                frames = next(blocks).cpu().numpy()
            yield Part(decoded.index, n_frames, _frames_record(decoded, grid, frames, first))
            first += len(frames)


def _one_ahead(blocks: Iterator[np.ndarray], pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
    """The same blocks, the next one being decoded while the last one is used."""
    future = pool.submit(next, blocks, None)
    while (block := future.result()) is not None:
        future = pool.submit(next, blocks, None)
        yield block


def _scene_record(decoded: _Decoded, embedding: np.ndarray) -> Record:
    return Record(decoded.segment.file, decoded.start_s, decoded.end_s, embedding)


def _frames_record(decoded: _Decoded, grid: FrameGrid, embedding: np.ndarray, first: int) -> Record:
    """A record of the frames from number ``first`` on."""
    time = decoded.start_s + np.arange(first, first + len(embedding)) * (grid.hop_ms / MS_PER_S)
    half_s = grid.frame_ms / MS_PER_S / 2
    return Record(
        file=decoded.segment.file,
        start=np.clip(time - half_s, decoded.start_s, decoded.end_s),
        end=np.clip(time + half_s, decoded.start_s, decoded.end_s),
        embedding=embedding,
        time=np.minimum(time, decoded.end_s),
    )
