"""Files, and arrays at any sample rate, to embeddings."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from serab_byols.audio import AudioClip, resample_array
from serab_byols.errors import AudioFileError, InvalidInputError, SerabByolsError
from serab_byols.framing import MS_PER_S, FrameGrid
from serab_byols.hear import (
    FRAME_DURATION_MS,
    HOP_SIZE_MS,
    get_scene_embeddings,
    get_timestamp_embeddings,
)
from serab_byols.inputs import Segment, as_segment
from serab_byols.model import ByolsModel

N_DECODING_THREADS = 2
_CLIPS_AHEAD = 64
_BATCH_S = 300.0
"""Clips are decoded ahead and embedded together until they hold this many seconds."""


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class _Decoded:
    segment: Segment
    start_s: float
    end_s: float
    samples: np.ndarray


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
) -> Record:
    """Embedding of an audio file of any format, rate and channel count.

    Args:
        path: any format that libsndfile reads; mixed to mono and resampled.
        model: from :func:`load_model` or :func:`create_model`.
        start, end: segment in seconds; by default the whole file.
        timestamps: one embedding a frame instead of one in all.
        frame_duration, hop_size: of the frames, in milliseconds.

    Raises:
        AudioFileError: missing, unreadable, empty, or the segment is outside of it.
        InvalidInputError: a normalisation that is shared between clips, an impossible frame.
    """
    segment = Segment(os.fspath(path), as_segment(path).path, start, end)
    (record,) = embed_files(
        [segment], model, timestamps=timestamps, frame_duration=frame_duration, hop_size=hop_size
    )
    return record


def embed_files(
    paths: Iterable[str | os.PathLike[str] | Segment],
    model: ByolsModel,
    *,
    timestamps: bool = False,
    frame_duration: float = FRAME_DURATION_MS,
    hop_size: float = HOP_SIZE_MS,
    on_error: ErrorHandler | None = None,
) -> Iterator[Record]:
    """Embeddings of many files, in their order; decoding runs ahead in threads.

    Args:
        paths: files, or segments of files.
        model: from :func:`load_model` or :func:`create_model`.
        timestamps: one embedding a frame instead of one a file.
        frame_duration, hop_size: of the frames, in milliseconds.
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
    return _records(paths, model, grid, on_error)


def check_corpus_normalization(model: ByolsModel) -> None:
    """Refuse the rules by which a file's embedding would depend on its neighbours."""
    rule = model.resolved_normalization
    if rule in ("batch", "hear2021"):
        raise InvalidInputError(
            f"normalization {rule!r} shares statistics between the clips of one call, which has no "
            "meaning for a corpus of files: use 'auto', 'clip' or fixed (mean, std)"
        )


def _records(
    paths: Iterable[str | os.PathLike[str] | Segment],
    model: ByolsModel,
    grid: FrameGrid | None,
    on_error: ErrorHandler | None,
) -> Iterator[Record]:
    batch: list[_Decoded] = []
    batch_s = 0.0
    for segment, result in _decoded_ahead(paths, model.sample_rate):
        if isinstance(result, SerabByolsError):
            if on_error is None:
                raise result
            on_error(segment, result)
            continue
        batch.append(result)
        batch_s += result.end_s - result.start_s
        if batch_s >= _BATCH_S or len(batch) >= _CLIPS_AHEAD:
            yield from _embed_batch(batch, model, grid)
            batch, batch_s = [], 0.0
    if batch:
        yield from _embed_batch(batch, model, grid)


def _decoded_ahead(
    paths: Iterable[str | os.PathLike[str] | Segment], sample_rate_hz: int
) -> Iterator[tuple[Segment, _Decoded | SerabByolsError]]:
    """Decode in threads (libsndfile and soxr release the interpreter lock), some clips ahead."""
    with ThreadPoolExecutor(N_DECODING_THREADS, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[Segment, Future[_Decoded | SerabByolsError]]] = deque()
        try:
            for item in paths:
                segment = as_segment(item)
                waiting.append((segment, pool.submit(_decode, segment, sample_rate_hz)))
                if len(waiting) > _CLIPS_AHEAD:
                    segment, future = waiting.popleft()
                    yield segment, future.result()
            while waiting:
                segment, future = waiting.popleft()
                yield segment, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _decode(segment: Segment, sample_rate_hz: int) -> _Decoded | SerabByolsError:
    try:
        _check_name(segment)
        with AudioClip(segment.path, segment.start_s, segment.end_s) as clip:
            samples = clip.read(sample_rate_hz)
            return _Decoded(segment, clip.start_s, clip.end_s, samples)
    except SerabByolsError as error:
        return error


def _check_name(segment: Segment) -> None:
    if segment.problem:
        raise AudioFileError(f"{segment.file or '(no name)'}: {segment.problem}")
    try:
        segment.file.encode("utf-8")
    except UnicodeEncodeError as error:
        raise AudioFileError(
            f"{segment.file!r}: the file's name is not valid UTF-8, so no table can hold it"
        ) from error


def _embed_batch(batch: list[_Decoded], model: ByolsModel, grid: FrameGrid | None) -> Iterator[Record]:
    clips = [decoded.samples for decoded in batch]
    if grid is None:
        embeddings = get_scene_embeddings(clips, model).cpu().numpy()
        for decoded, embedding in zip(batch, embeddings):
            yield Record(decoded.segment.file, decoded.start_s, decoded.end_s, embedding)
        return
    for decoded in batch:
        frames, centres_ms = get_timestamp_embeddings([decoded.samples], model, grid.frame_ms, grid.hop_ms)
        yield _frames_record(decoded, grid, frames[0].cpu().numpy(), len(centres_ms[0]))


def _frames_record(decoded: _Decoded, grid: FrameGrid, embedding: np.ndarray, n_frames: int) -> Record:
    time = decoded.start_s + np.arange(n_frames) * (grid.hop_ms / MS_PER_S)
    half_s = grid.frame_ms / MS_PER_S / 2
    return Record(
        file=decoded.segment.file,
        start=np.clip(time - half_s, decoded.start_s, decoded.end_s),
        end=np.clip(time + half_s, decoded.start_s, decoded.end_s),
        embedding=embedding,
        time=np.minimum(time, decoded.end_s),
    )
