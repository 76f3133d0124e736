"""Audio files, and arrays at any sample rate, to embeddings."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import Protocol

import numpy as np
import torch

from serab_byols.corpus.clip_bar import ClipBar
from serab_byols.corpus.decode_ahead import N_CLIPS_AHEAD, DecodedSegment, decode_ahead, one_block_ahead
from serab_byols.corpus.decoding import AudioClip, resample_array
from serab_byols.corpus.record import FailedSegment, Record, RecordChunk, joined
from serab_byols.corpus.segments import Segment, as_segment
from serab_byols.errors import AudioFileError, AudioFileWarning, InvalidInputError, SerabByolsError
from serab_byols.hear import FRAME_DURATION_MS, HOP_SIZE_MS, get_scene_embeddings
from serab_byols.inference.context import inference_context
from serab_byols.inference.frame_grid import MS_PER_S, FrameGrid
from serab_byols.inference.scenes import SceneEmbedder
from serab_byols.inference.streaming import BlockSource
from serab_byols.inference.timestamps import FrameEmbedder
from serab_byols.inference.waveforms import to_waveforms
from serab_byols.model import ByolsModel, check_dense
from serab_byols.normalization import shares_statistics

_BATCH_S = 300.0
"""Clips are decoded ahead and embedded together until they hold this many seconds."""

EMBEDDED_IN_PART = "embedded as far as it goes"
"""How the warning of a recording ends that was cut off."""

ErrorHandler = Callable[[Segment, SerabByolsError], None]
ProgressHandler = Callable[[Segment, float], None]


def embed_audio(samples: np.ndarray | torch.Tensor, sample_rate: int, model: ByolsModel) -> torch.Tensor:
    """Scene embedding of an array at any sample rate.

    Args:
        samples: (n_samples,), or (n_channels, n_samples) or (n_samples, n_channels), which are mixed to
            mono; floating point.
        sample_rate: of ``samples``, in Hz; resampled (soxr, high quality) to the model's.
        model: from :func:`load_model` or :func:`create_model`.

    Returns:
        (D,) float32, on the model's device.

    Raises:
        InvalidInputError: another shape or type, no samples, NaN or infinity, or an impossible rate.

    Example:
        >>> model = serab_byols.load_model()
        >>> serab_byols.embed_audio(np.zeros((2, 44100)), 44100, model).shape  # a second of stereo
        torch.Size([512])
    """
    mono = resample_array(_as_array(samples), sample_rate, model.sample_rate)
    return get_scene_embeddings([mono], model)[0]


def _as_array(samples: object) -> np.ndarray:
    if isinstance(samples, torch.Tensor):
        check_dense(samples, "samples")
        samples = samples.detach().cpu()
        return (samples.float() if samples.is_floating_point() else samples).numpy()
    try:
        return np.asarray(samples) if not isinstance(samples, np.ma.MaskedArray) else samples
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"samples cannot be taken as an array: {error}") from error


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
        path: any format that libsndfile reads or, with the extra ``av``, FFmpeg's: m4a, aac, webm, wma, amr,
            mp4; local or a URL. Mixed to mono and resampled.
        model: from :func:`load_model` or :func:`create_model`.
        start, end: segment in seconds; by default the whole file.
        timestamps: one embedding a frame instead of one in all.
        frame_duration, hop_size: of the frames, in milliseconds.
        dense: approximate frames, as in :func:`get_timestamp_embeddings`.

    Raises:
        AudioFileError: missing, unreadable, empty, or the segment is outside of it.
        InvalidInputError: a normalisation that is shared between clips, an impossible frame.

    Example:
        >>> model = serab_byols.load_model()
        >>> record = serab_byols.embed_file(clip_path, model, start=0.5, end=1.5)
        >>> record.start, record.end, record.embedding.shape
        (0.5, 1.5, (512,))
    """
    segment = replace(as_segment(path), start_s=start, end_s=end)
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
    progress: bool = False,
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
        progress: show a bar: text on stderr or, in notebooks with ipywidgets, a widget.

    Yields:
        A :class:`Record` a file.

    Warns:
        AudioFileWarning: a file was cut off, and is embedded as far as it goes.

    Raises:
        AudioFileError: without ``on_error``: a file is missing, unreadable, empty or too short.
        InvalidInputError: a normalisation that is shared between clips, an impossible frame.

    Example:
        >>> model = serab_byols.load_model()
        >>> records = serab_byols.embed_files([clip_path, clip_path], model)
        >>> np.stack([record.embedding for record in records]).shape
        (2, 512)
    """
    if isinstance(paths, (str, os.PathLike)):  # a string would be taken letter by letter
        raise InvalidInputError(f"embed_files takes a list of paths, got {paths!r}; for one use embed_file")
    if dense and not timestamps:
        raise InvalidInputError("dense=True is for frames: it needs timestamps=True")
    check_corpus_normalization(model)
    grid = FrameGrid(frame_duration, hop_size, model.sample_rate) if timestamps else None
    if progress:
        return _with_bar(paths, model, grid, dense, on_error)
    return _records(embed_segments(paths, model, grid, dense=dense, on_error=on_error))


def _records(chunks: Iterable[RecordChunk]) -> Iterator[Record]:
    by_segment = groupby(with_warnings(chunks), key=attrgetter("index"))
    return (joined(of_one) for _, of_one in by_segment)


def _with_bar(
    paths: Iterable[str | os.PathLike[str] | Segment],
    model: ByolsModel,
    grid: FrameGrid | None,
    dense: bool,
    on_error: ErrorHandler | None,
) -> Iterator[Record]:
    with ClipBar() as bar:
        bar.start(len(paths) if isinstance(paths, Sized) else None)

        def pass_over(segment: Segment, error: SerabByolsError) -> None:
            if on_error is None:
                raise error
            on_error(segment, error)
            bar.advance(1)

        chunks = embed_segments(paths, model, grid, dense=dense, on_error=pass_over, progress=bar.within)
        for record in _records(chunks):
            bar.advance(1)
            yield record


def with_warnings(chunks: Iterable[RecordChunk]) -> Iterator[RecordChunk]:
    """The chunks; what their recordings lack becomes Python warnings."""
    for chunk in chunks:
        if chunk.warning:
            warnings.warn(chunk.warning, AudioFileWarning, stacklevel=2)
        yield chunk


def check_corpus_normalization(model: ByolsModel) -> None:
    """Refuse the rules by which a file's embedding would depend on its neighbours."""
    rule = model.resolved_normalization
    if shares_statistics(rule):
        raise InvalidInputError(
            f"normalization {rule!r} shares statistics between the clips of one call, which has no "
            "meaning for a corpus of files: use 'auto', 'clip' or fixed (mean, std)"
        )


def embed_segments(
    paths: Iterable[str | os.PathLike[str] | Segment],
    model: ByolsModel,
    grid: FrameGrid | None = None,
    *,
    dense: bool = False,
    on_error: ErrorHandler | None = None,
    progress: ProgressHandler | None = None,
) -> Iterator[RecordChunk]:
    """As :func:`embed_files`, but a long recording's frames come in several chunks.

    Args:
        paths, model, dense, on_error: as for :func:`embed_files`.
        grid: of the frames; None for scenes.
        progress: called within long recordings, with the segment and the part of it that is done.

    Yields:
        A :class:`RecordChunk`. Before the first of a recording all of it has been decoded once, so that
        a damaged one leaves no rows behind.
    """
    decoded = decode_ahead(paths, model.sample_rate)
    for item in embed_decoded(decoded, embedder_of(model, grid, dense=dense), progress):
        if isinstance(item, RecordChunk):
            yield item
        elif on_error is None:
            raise item.error
        else:
            on_error(item.segment, item.error)


def embedder_of(model: ByolsModel, grid: FrameGrid | None, *, dense: bool = False) -> SegmentEmbedder:
    """What turns decoded segments into records; the model's parts are prepared once."""
    with inference_context():
        return _SceneRecords(model) if grid is None else _FrameRecords(model, grid, dense)


def embed_decoded(
    decoded: Iterable[DecodedSegment], embedder: SegmentEmbedder, progress: ProgressHandler | None = None
) -> Iterator[RecordChunk | FailedSegment]:
    """As :func:`embed_segments`, of what has been decoded; failures come in their places."""
    for batch in _batches(decoded):
        yield from _embed_or_fail(batch, embedder, progress)


def _embed_or_fail(
    batch: list[DecodedSegment], embedder: SegmentEmbedder, progress: ProgressHandler | None
) -> Iterator[RecordChunk | FailedSegment]:
    try:
        yield from _embed_batch(batch, embedder, progress)
    except SerabByolsError as error:
        if len(batch) == 1:
            yield FailedSegment(batch[0].index, batch[0].segment, error)
            return
        for item in batch:  # one of them is to blame
            yield from _embed_or_fail([item], embedder, progress)


def _embed_batch(
    batch: list[DecodedSegment], embedder: SegmentEmbedder, progress: ProgressHandler | None
) -> Iterator[RecordChunk]:
    first = batch[0]
    if first.error is not None:
        raise first.error
    if first.samples is None:
        yield from _streamed(first, embedder, progress)
    else:
        yield from embedder.in_memory(batch)


def _batches(decoded: Iterable[DecodedSegment]) -> Iterator[list[DecodedSegment]]:
    """Clips in memory that are embedded together; a long recording is on its own, and so is a bad one."""
    batch: list[DecodedSegment] = []
    batch_s = 0.0
    for item in decoded:
        if batch and (item.samples is None or batch_s >= _BATCH_S or len(batch) >= N_CLIPS_AHEAD):
            yield batch
            batch, batch_s = [], 0.0
        if item.samples is None:
            yield [item]
        else:
            batch.append(item)
            batch_s += item.end_s - item.start_s
    if batch:
        yield batch


class SegmentEmbedder(Protocol):
    """The way from decoded segments to records: one for scenes, one for frames.

    Attributes:
        model: whose embeddings they are.
        n_passes: how many times a long recording is read.
    """

    model: ByolsModel
    n_passes: int

    def in_memory(self, batch: list[DecodedSegment]) -> Iterator[RecordChunk]:
        """Records of clips that are in memory."""
        ...

    def streamed(
        self, decoded: DecodedSegment, clip: AudioClip, source: BlockSource
    ) -> Iterator[RecordChunk]:
        """Chunks of a long recording; where ``clip`` really ends is known once it has been decoded."""
        ...


def _streamed(
    decoded: DecodedSegment, embedder: SegmentEmbedder, progress: ProgressHandler | None
) -> Iterator[RecordChunk]:
    """A long recording, which is never in memory as a whole."""
    segment, model, copy = decoded.segment, embedder.model, decoded.copy
    n_samples = (decoded.end_s - decoded.start_s) * model.sample_rate * embedder.n_passes
    n_done = 0
    assert copy is not None
    pool = ThreadPoolExecutor(1, thread_name_prefix="decode")  # ends by itself, as those of decode_ahead
    with copy, copy.named(), AudioClip(copy.path, segment.start_s, segment.end_s) as clip:

        def source() -> Iterator[torch.Tensor]:
            nonlocal n_done
            for block in one_block_ahead(clip.blocks(model.sample_rate), pool):
                yield torch.from_numpy(block).to(model.device)
                n_done += len(block)
                if progress is not None:
                    progress(segment, min(n_done / n_samples, 1.0))

        yield from embedder.streamed(decoded, clip, source)


class _SceneRecords:
    """A record a clip."""

    n_passes = 1

    def __init__(self, model: ByolsModel) -> None:
        self.model = model
        self._embedder = SceneEmbedder(model)

    def in_memory(self, batch: list[DecodedSegment]) -> Iterator[RecordChunk]:
        with inference_context():
            embeddings = self._embedder(_waveforms(batch, self.model)).cpu().numpy()
        for decoded, embedding in zip(batch, embeddings):
            yield self._chunk(decoded, embedding)

    def streamed(
        self, decoded: DecodedSegment, clip: AudioClip, source: BlockSource
    ) -> Iterator[RecordChunk]:
        with inference_context():
            embedding = self._embedder.stream(source).cpu().numpy()
        yield self._chunk(replace(decoded, end_s=clip.end_s, warning=clip.warning), embedding)

    @staticmethod
    def _chunk(decoded: DecodedSegment, embedding: np.ndarray) -> RecordChunk:
        record = Record(decoded.segment.file, decoded.start_s, decoded.end_s, embedding)
        return RecordChunk(decoded.index, 1, record, _warning_of(decoded))


class _FrameRecords:
    """A record with a row a frame; a long recording's comes in chunks."""

    n_passes = 2

    def __init__(self, model: ByolsModel, grid: FrameGrid, dense: bool) -> None:
        self.model = model
        self.grid = grid
        self._embedder = FrameEmbedder(model, grid, dense=dense)

    def in_memory(self, batch: list[DecodedSegment]) -> Iterator[RecordChunk]:
        with inference_context():
            clips = _waveforms(batch, self.model)
            frames = [
                torch.empty(
                    self.grid.n_frames(len(clip)),
                    self.model.timestamp_embedding_size,
                    dtype=torch.float32,
                )
                for clip in clips
            ]
            self._embedder(clips, frames)
        for decoded, embedding in zip(batch, frames):
            yield self._chunk(decoded, embedding.numpy(), 0, len(embedding))

    def streamed(
        self, decoded: DecodedSegment, clip: AudioClip, source: BlockSource
    ) -> Iterator[RecordChunk]:
        with inference_context():
            statistics, n_samples = self._embedder.measure(source)  # finds damage before the first row
            blocks = self._embedder.stream(source, statistics)
        decoded = replace(decoded, end_s=clip.end_s, warning=clip.warning)
        n_frames, n_done = self.grid.n_frames(n_samples), 0
        while n_done < n_frames:
            with inference_context():  # not across the yield, where the caller computes
                block = next(blocks, None)
            if block is None:
                raise AudioFileError(f"{clip.path}: became shorter while it was read")
            embedding = block.cpu().numpy()
            yield self._chunk(decoded, embedding, n_done, n_frames)
            n_done += len(embedding)

    def _chunk(
        self, decoded: DecodedSegment, embedding: np.ndarray, first: int, n_frames: int
    ) -> RecordChunk:
        """The frames from number ``first`` on."""
        grid = self.grid
        time = decoded.start_s + np.arange(first, first + len(embedding)) * (grid.hop_ms / MS_PER_S)
        half_s = grid.frame_ms / MS_PER_S / 2
        record = Record(
            file=decoded.segment.file,
            start=np.clip(time - half_s, decoded.start_s, decoded.end_s),
            end=np.clip(time + half_s, decoded.start_s, decoded.end_s),
            embedding=embedding,
            time=np.minimum(time, decoded.end_s),
        )
        is_last = first + len(embedding) == n_frames
        return RecordChunk(decoded.index, n_frames, record, _warning_of(decoded) if is_last else None)


def _warning_of(decoded: DecodedSegment) -> str | None:
    warning = decoded.warning
    return f"{decoded.segment.path}: {warning}; {EMBEDDED_IN_PART}" if warning else None


def _waveforms(batch: list[DecodedSegment], model: ByolsModel) -> list[torch.Tensor]:
    samples = [decoded.samples for decoded in batch if decoded.samples is not None]
    return to_waveforms(samples, model.device)
