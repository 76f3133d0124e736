"""Crops of a corpus of audio files, in an order that a seed decides and that any step can start from.

The corpus may be larger than memory: crops are decoded shortly before the training needs them, and
short clips are kept as far as there is room for them.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from threading import Lock

import numpy as np
import torch

from serab_byols.corpus.decoding import AudioClip
from serab_byols.corpus.listing import Inputs
from serab_byols.corpus.segments import Segment
from serab_byols.errors import AudioFileError, InvalidInputError
from serab_byols.frontend import SAMPLE_RATE_HZ
from serab_byols.pretrain.distributed import Share
from serab_byols.pretrain.progress import SILENT, Progress, Reporting

N_DECODING_THREADS = 2
BATCHES_AHEAD = 4
LISTING = "listing files"
MAX_CACHED_S = 30.0
"""Of a longer recording only the crop is decoded, never the whole. Resampling makes the two differ a
little, so the choice depends on the clip alone."""

_MAX_SUBSTITUTES = 100

OnError = Callable[[str, str], None]
"""Takes the name of a file and why it is left out."""


@dataclass(frozen=True)
class Clip:
    """A readable recording, or the part of one, from ``start_s`` to ``end_s`` seconds."""

    segment: Segment
    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    def read(self, start_s: float, end_s: float) -> np.ndarray:
        """Mono float32 samples at 16 kHz, from ``start_s`` to ``end_s`` of the file."""
        with AudioClip(self.segment.path, start_s, end_s) as audio:
            return audio.read(SAMPLE_RATE_HZ)


def find_clips(
    inputs: Sequence[str], on_error: OnError, reporting: Reporting = SILENT, listing: Progress | None = None
) -> list[Clip]:
    """Clips of files, folders and CSV lists, going by the files' headers.

    What is given several times is drawn from as often.

    Args:
        inputs: the paths.
        on_error: called for what is left out.
        reporting: told how far the reading of the headers is.
        listing: counts the files as they are found; ended here.

    Raises:
        InvalidInputError: a list that cannot be read, or not a single readable clip.
    """
    segments, opened = [], []
    with listing or SILENT.track(LISTING, None, "file") as found:
        for segment in Inputs(inputs):
            segments.append(segment)
            found.update()
    with (
        ThreadPoolExecutor(N_DECODING_THREADS) as threads,
        reporting.track("reading headers", len(segments), "file") as progress,
    ):
        for clip in threads.map(_open_clip, segments):
            opened.append(clip)
            progress.update()
    for segment, clip in zip(segments, opened):
        if isinstance(clip, str):
            on_error(segment.file, clip)
    clips = [clip for clip in opened if isinstance(clip, Clip)]
    if not clips:
        raise InvalidInputError(f"no readable audio among {', '.join(inputs)}")
    return clips


def _open_clip(segment: Segment) -> Clip | str:
    """The clip, or why there is none."""
    if segment.problem:
        return f"{segment.file}: {segment.problem}"
    try:
        with AudioClip(segment.path, segment.start_s, segment.end_s) as clip:
            return Clip(segment, clip.start_s, clip.end_s)
    except AudioFileError as error:
        return str(error)


def fingerprint(clips: Sequence[Clip]) -> str:
    """A hash of names and lengths, equal if a training is resumed on the corpus it was begun with."""
    lines = (f"{clip.segment.file}|{clip.start_s:.3f}|{clip.end_s:.3f}\n" for clip in clips)
    return hashlib.sha256("".join(lines).encode(errors="backslashreplace")).hexdigest()


class Crops:
    """Which crops each step takes.

    An epoch visits every clip once for each ``crop_s`` seconds that it has, rounded, and at least
    once; each time at a random position.

    The last, incomplete step of an epoch is left out, or, if there is no other, filled up from the
    next epoch. The batch size is that of all processes.

    Attributes:
        n_per_epoch: crops that an epoch draws from, before the incomplete step is left out.
        steps_per_epoch: complete steps, at least one.
    """

    def __init__(self, clips: Sequence[Clip], n_samples: int, batch_size: int, seed: int) -> None:
        self.clips, self.n_samples, self.batch_size, self.seed = clips, n_samples, batch_size, seed
        crop_s = n_samples / SAMPLE_RATE_HZ
        visits = [max(1, round(clip.duration_s / crop_s)) for clip in clips]
        self._clip_of_visit = np.repeat(np.arange(len(clips)), visits)
        self._epoch_order = lru_cache(maxsize=1)(self._shuffled)
        self.n_per_epoch = len(self._clip_of_visit)
        self.steps_per_epoch = max(1, self.n_per_epoch // batch_size)

    def at(self, step: int) -> list[tuple[int, float]]:
        """Clip number and position in [0, 1) of every crop of a step (from 0), for all processes."""
        epoch, within = divmod(step, self.steps_per_epoch)
        first = within * self.batch_size
        visits = self._epoch_order(epoch)[first : first + self.batch_size]
        positions = np.random.default_rng([self.seed, 1, step]).random(self.batch_size)
        return [(int(self._clip_of_visit[visit]), float(at)) for visit, at in zip(visits, positions)]

    def _shuffled(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, 0, epoch])
        # A corpus of less than one batch is gone through several times.
        rounds = -(-self.batch_size // self.n_per_epoch)
        return np.concatenate([generator.permutation(self.n_per_epoch) for _ in range(rounds)])


class CropReader:
    """Decodes crops; keeps decoded clips up to ``cache_bytes``; remembers which cannot be decoded."""

    def __init__(self, crops: Crops, cache_bytes: int, on_error: OnError) -> None:
        self.crops = crops
        self._free_bytes = cache_bytes
        self._cached: dict[int, np.ndarray] = {}
        self._bad: set[int] = set()
        self._on_error = on_error
        self._lock = Lock()

    def read(self, clip: int, position: float) -> tuple[int, np.ndarray]:
        """A crop as float32 (n_samples,), and the clip that it is from: the next if one cannot be decoded.

        Which one it is depends on ``clip`` and ``position`` alone, not on what was read before: of a long
        recording some positions may be readable and others not.

        Raises:
            AudioFileError: a hundred clips in a row cannot be decoded.
        """
        n_clips = len(self.crops.clips)
        for offset in range(min(n_clips, _MAX_SUBSTITUTES)):
            index = (clip + offset) % n_clips
            if index in self._bad and self._is_decoded_whole(index):
                continue
            try:
                return index, self._crop(index, position)
            except AudioFileError as error:
                self._note_bad(index, str(error))
        raise AudioFileError(f"{self.crops.clips[clip].segment.file} and those after it cannot be decoded")

    def _is_decoded_whole(self, index: int) -> bool:
        return self.crops.clips[index].duration_s <= MAX_CACHED_S

    def _note_bad(self, index: int, reason: str) -> None:
        with self._lock:
            known = index in self._bad
            self._bad.add(index)
        if not known:
            self._on_error(self.crops.clips[index].segment.file, reason)

    def _crop(self, index: int, position: float) -> np.ndarray:
        clip, n = self.crops.clips[index], self.crops.n_samples
        if not self._is_decoded_whole(index):
            crop_s = n / SAMPLE_RATE_HZ
            start_s = clip.start_s + position * (clip.duration_s - crop_s)
            return padded(clip.read(start_s, start_s + crop_s), n)
        samples = self._cached.get(index)
        if samples is None:
            samples = clip.read(clip.start_s, clip.end_s)
            self._cache(index, samples)
        first = int(position * (max(len(samples) - n, 0) + 1))
        return padded(samples[first : first + n], n)

    def _cache(self, index: int, samples: np.ndarray) -> None:
        with self._lock:
            if samples.nbytes <= self._free_bytes and index not in self._cached:
                self._free_bytes -= samples.nbytes
                self._cached[index] = samples


def padded(samples: np.ndarray, n_samples: int) -> np.ndarray:
    """Zeros on both sides of what is shorter, an odd one at the end; what is longer is cut."""
    missing = max(n_samples - len(samples), 0)
    return np.pad(samples[:n_samples], (missing // 2, missing - missing // 2))


def crop_batches(
    reader: CropReader, share: Share, first_step: int, n_steps: int
) -> Generator[tuple[torch.Tensor, torch.Tensor]]:
    """This process's part of the batch of every step from ``first_step`` to ``n_steps``.

    Waveforms (b, n_samples), float32, and the numbers (b,) of the clips that they are from. A few
    batches are decoded ahead of the training.
    """
    threads = ThreadPoolExecutor(N_DECODING_THREADS)
    ahead: deque[list[Future[tuple[int, np.ndarray]]]] = deque()
    try:
        for step in range(first_step, n_steps + BATCHES_AHEAD):
            if step < n_steps:
                own = reader.crops.at(step)[share.rows]
                ahead.append([threads.submit(reader.read, *crop) for crop in own])
            if ahead and step >= first_step + BATCHES_AHEAD:
                clips, crops = zip(*(future.result() for future in ahead.popleft()))
                yield torch.from_numpy(np.stack(crops)), torch.tensor(clips)
    finally:
        for future in chain(*ahead):  # and no shutdown, see decode_ahead
            future.cancel()
