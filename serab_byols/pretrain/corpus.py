"""Crops of a corpus of audio files, in an order that a seed decides and that can be entered anywhere.

The corpus may be larger than memory: crops are decoded when they are due, ahead of the training, and
short clips are kept as far as there is room for them.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from torch.utils.data import IterableDataset

from serab_byols.corpus.decoding import AudioClip
from serab_byols.corpus.segments import Segment, find_segments
from serab_byols.errors import AudioFileError, InvalidInputError
from serab_byols.frontend import SAMPLE_RATE_HZ
from serab_byols.pretrain.distributed import Share

N_DECODING_THREADS = 2
BATCHES_AHEAD = 4
DECODED_WHOLE_S = 30.0
"""Of a longer recording only the crop is decoded. The numbers of a crop would differ a little where
it is resampled, so the choice depends on the clip alone."""

_MAX_SUBSTITUTES = 100


@dataclass(frozen=True)
class Clip:
    """A readable recording: where it is, and its length in seconds."""

    segment: Segment
    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


OnError = Callable[[str, str], None]
"""Told the name of a file and why it is left out."""


def scan(inputs: Sequence[str], on_error: OnError) -> list[Clip]:
    """Clips of files, folders and CSV lists, by what the files' headers say; bad ones are told.

    What is given several times is drawn from as often.

    Raises:
        InvalidInputError: a list that cannot be read, or not a single readable clip.
    """
    segments = find_segments(inputs)
    with ThreadPoolExecutor(N_DECODING_THREADS) as threads:
        clips = list(threads.map(_open_clip, segments))
    for segment, clip in zip(segments, clips):
        if isinstance(clip, str):
            on_error(segment.file, clip)
    good = [clip for clip in clips if isinstance(clip, Clip)]
    if not good:
        raise InvalidInputError(f"no readable audio among {', '.join(inputs)}")
    return good


def _open_clip(segment: Segment) -> Clip | str:
    if segment.problem:
        return f"{segment.file}: {segment.problem}"
    try:
        with AudioClip(segment.path, segment.start_s, segment.end_s) as clip:
            return Clip(segment, clip.start_s, clip.end_s)
    except AudioFileError as error:
        return str(error)


def fingerprint(clips: Sequence[Clip]) -> str:
    """What tells whether a training is resumed on the corpus it was begun with: names and lengths."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(os.fsencode(clip.segment.file))
        digest.update(f"|{clip.start_s:.3f}|{clip.end_s:.3f}\n".encode())
    return digest.hexdigest()


class Crops:
    """Crops by number: what epoch, which clip, and where in it.

    An epoch visits every clip once for each ``crop_s`` seconds that it has, rounded, and at least
    once; each time anywhere in it.

    Args:
        clips: the corpus.
        n_samples: of a crop, at the model's rate.
        batch_size: crops a step, over all processes; the last, incomplete step of an epoch is left
            out (or, if there is no other, filled up from the next epoch).
        seed: decides order and places.
    """

    def __init__(self, clips: Sequence[Clip], n_samples: int, batch_size: int, seed: int) -> None:
        self.clips, self.n_samples, self.batch_size, self.seed = clips, n_samples, batch_size, seed
        crop_s = n_samples / SAMPLE_RATE_HZ
        visits = [max(1, round(clip.duration_s / crop_s)) for clip in clips]
        self._clip_of_visit = np.repeat(np.arange(len(clips)), visits)
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def n_an_epoch(self) -> int:
        """Crops that an epoch draws from, before the incomplete step is left out."""
        return len(self._clip_of_visit)

    @property
    def steps_an_epoch(self) -> int:
        return max(1, self.n_an_epoch // self.batch_size)

    def places(self, step: int) -> list[tuple[int, float]]:
        """Clip number and place in [0, 1) of every crop of a step (from 0), for all processes."""
        epoch, within = divmod(step, self.steps_an_epoch)
        first = within * self.batch_size
        visits = self._epoch_order(epoch)[first : first + self.batch_size]
        u = np.random.default_rng([self.seed, 1, step]).random(self.batch_size)
        return [(int(self._clip_of_visit[visit]), float(at)) for visit, at in zip(visits, u)]

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self.seed, 0, epoch])
            # A corpus of less than one batch is gone through several times.
            rounds = -(-self.batch_size // self.n_an_epoch)
            order = np.concatenate([generator.permutation(self.n_an_epoch) for _ in range(rounds)])
            self._order = epoch, order
        return self._order[1]


class CropReader:
    """Decodes crops; keeps decoded clips up to ``cache_bytes``; remembers which cannot be decoded."""

    def __init__(self, crops: Crops, cache_bytes: int, on_error: OnError) -> None:
        self.crops = crops
        self._room = cache_bytes
        self._kept: dict[int, np.ndarray] = {}
        self._bad: set[int] = set()
        self._on_error = on_error
        self._lock = Lock()

    def read(self, clip: int, place: float) -> tuple[int, np.ndarray]:
        """A crop as float32 (n_samples,), and the clip that it is from: the next if one cannot be decoded.

        Which one it is depends on ``clip`` and ``place`` alone, not on what was read before: of a long
        recording some places may be readable and others not.

        Raises:
            AudioFileError: a hundred clips in a row cannot be decoded.
        """
        n_clips = len(self.crops.clips)
        for step in range(min(n_clips, _MAX_SUBSTITUTES)):
            index = (clip + step) % n_clips
            if index in self._bad and self._is_decoded_whole(index):
                continue
            try:
                return index, self._crop(index, place)
            except AudioFileError as error:
                self._note_bad(index, str(error))
        raise AudioFileError(f"{self.crops.clips[clip].segment.file} and those after it cannot be decoded")

    def _is_decoded_whole(self, index: int) -> bool:
        return self.crops.clips[index].duration_s <= DECODED_WHOLE_S

    def _note_bad(self, index: int, reason: str) -> None:
        with self._lock:
            known = index in self._bad
            self._bad.add(index)
        if not known:
            self._on_error(self.crops.clips[index].segment.file, reason)

    def _crop(self, index: int, place: float) -> np.ndarray:
        clip, n = self.crops.clips[index], self.crops.n_samples
        if not self._is_decoded_whole(index):
            crop_s = n / SAMPLE_RATE_HZ
            start_s = clip.start_s + place * (clip.duration_s - crop_s)
            return padded(decoded(clip, start_s, start_s + crop_s), n)
        samples = self._kept.get(index)
        if samples is None:
            samples = decoded(clip, clip.start_s, clip.end_s)
            self._keep(index, samples)
        first = int(place * (max(len(samples) - n, 0) + 1))
        return padded(samples[first : first + n], n)

    def _keep(self, index: int, samples: np.ndarray) -> None:
        with self._lock:
            if samples.nbytes <= self._room and index not in self._kept:
                self._room -= samples.nbytes
                self._kept[index] = samples


def decoded(clip: Clip, start_s: float, end_s: float) -> np.ndarray:
    with AudioClip(clip.segment.path, start_s, end_s) as audio:
        return audio.read(SAMPLE_RATE_HZ)


def padded(samples: np.ndarray, n_samples: int) -> np.ndarray:
    """Zeros on both sides of what is shorter, an odd one behind; what is longer is cut."""
    missing = max(n_samples - len(samples), 0)
    return np.pad(samples[:n_samples], (missing // 2, missing - missing // 2))


class CropBatches(IterableDataset):
    """This process's part of every step's batch: waveforms (b, n_samples) and clip numbers (b,).

    Args:
        reader: where crops come from.
        share: which rows are this process's.
        first_step: where to begin; a resumed training begins where it was.
        n_steps: of the whole training.
    """

    def __init__(self, reader: CropReader, share: Share, first_step: int, n_steps: int) -> None:
        super().__init__()
        self.reader, self.share, self.first_step, self.n_steps = reader, share, first_step, n_steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        with ThreadPoolExecutor(N_DECODING_THREADS) as threads:
            waiting: deque[list[Future[tuple[int, np.ndarray]]]] = deque()
            try:
                for step in range(self.first_step, self.n_steps):
                    waiting.append(self._submit(threads, step))
                    if len(waiting) > BATCHES_AHEAD:
                        yield _batch(waiting.popleft())
                while waiting:
                    yield _batch(waiting.popleft())
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _submit(self, threads: ThreadPoolExecutor, step: int) -> list[Future[tuple[int, np.ndarray]]]:
        places = self.reader.crops.places(step)[self.share.rows]
        return [threads.submit(self.reader.read, *place) for place in places]


def _batch(reading: list[Future[tuple[int, np.ndarray]]]) -> tuple[torch.Tensor, torch.Tensor]:
    clips, crops = zip(*(one.result() for one in reading))
    return torch.from_numpy(np.stack(crops)), torch.tensor(clips)
