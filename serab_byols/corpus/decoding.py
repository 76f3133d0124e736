"""Audio files and arrays to mono float32 at the model's rate, in blocks.

Decoding is libsndfile's (WAV, FLAC, OGG, Opus, MP3, AIFF and more), or FFmpeg's of what libsndfile does not
know (m4a, webm and more). Resampling is libsoxr's at its high quality. Arrays and files, short or long, take
the same path, so they get the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from threading import RLock

import numpy as np
import soundfile
import soxr

from serab_byols.corpus.ffmpeg_file import FFMPEG_SUFFIXES, FfmpegFile, ffmpeg_format
from serab_byols.corpus.libsndfile_file import LibsndfileFile
from serab_byols.errors import AudioFileError, InvalidInputError, SerabByolsError
from serab_byols.inference.waveforms import MAX_AMPLITUDE

AUDIO_SUFFIXES = frozenset(
    {".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga"}
    | {".ogg", ".opus", ".rf64", ".snd", ".w64", ".wav", ".wave"}
    | FFMPEG_SUFFIXES
)
"""Suffixes by which audio is recognised in folders; a file named explicitly may have any."""

RESAMPLING_QUALITY = "HQ"
MIN_RATE_HZ, MAX_RATE_HZ = 1000, 1_000_000
"""Audio at other rates is damaged, or not audio; resampling it could need any amount of memory."""

_BLOCK_SAMPLES = 1 << 16
_BLOCK_VALUES = 1 << 20
"""Of all channels together: a header may state a thousand of them."""


class AudioClip:
    """An audio file, or a segment of one, open for reading.

    Args:
        path: any format that libsndfile reads, or, with the extra ``av``, an m4a, aac, webm, mka, wma, amr or
            the sound of an mp4, mov or mkv.
        start_s, end_s: segment in seconds; by default the whole file. An end past the file's end
            (infinity too) is moved to it.

    Attributes:
        warning: once the segment was read, and if it goes up to the end of a file that was cut off: how that
            is known, such as "ends early: the header states 10 s, 7.3 s are there".

    Raises:
        AudioFileError: missing, unreadable, without samples, or the segment lies outside of it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> None:
        for name, value in (("start", start_s), ("end", end_s)):
            if not (value is None or _is_number(value)):
                raise InvalidInputError(f"{name} must be a number of seconds, got {value!r}")
        self.path = path
        self._reading = RLock()  # a file that is closed while another thread reads it would crash
        self._file = self._open()
        self.warning: str | None = None
        self.sample_rate_hz: int = self._file.sample_rate_hz
        duration_s = self._file.n_samples / self.sample_rate_hz
        problem = self._problem(0.0 if start_s is None else start_s, duration_s if end_s is None else end_s)
        if problem:
            self._file.close()
            raise AudioFileError(f"{path}: {problem}")
        self._first = 0 if start_s is None else self._sample_at(start_s)
        self._last = self._file.n_samples if end_s is None else self._sample_at(end_s)

    def _open(self) -> LibsndfileFile | FfmpegFile:
        try:
            _check_regular(self.path)
            return _opened(self.path)
        except AudioFileError:
            raise
        except Exception as error:  # whatever is wrong with a file, it is that file's error
            raise AudioFileError(f"{self.path}: {_reason(self.path, error)}") from error

    def _problem(self, start_s: float, end_s: float) -> str | None:
        if self._file.n_samples == 0:
            return "holds no samples"
        if not MIN_RATE_HZ <= self.sample_rate_hz <= MAX_RATE_HZ:
            return f"states a sample rate of {self.sample_rate_hz} Hz, which is not from 1 kHz to 1 MHz"
        # Written so that NaN fails too.
        if not (0 <= start_s < end_s and self._sample_at(start_s) < self._sample_at(end_s)):
            duration_s = self._file.n_samples / self.sample_rate_hz
            return (
                f"the segment from {start_s:g} to {end_s:g} s is empty or outside of the file's "
                f"{duration_s:g} s"
            )
        return None

    def _sample_at(self, time_s: float) -> int:
        return round(min(time_s * self.sample_rate_hz, self._file.n_samples))

    @property
    def start_s(self) -> float:
        """Start of the segment in the file."""
        return self._first / self.sample_rate_hz

    @property
    def end_s(self) -> float:
        """End of the segment in the file, no later than the file's own; once read, what was there."""
        return self._last / self.sample_rate_hz

    def blocks(self, sample_rate_hz: int) -> Iterator[np.ndarray]:
        """The segment as mono float32 blocks (n,) at ``sample_rate_hz``; can be repeated.

        Raises:
            AudioFileError: decoding fails midway, or there are invalid values: NaN,
                infinity, or beyond :data:`MAX_AMPLITUDE`.
        """
        return resampled(self._mono_blocks(), self.sample_rate_hz, sample_rate_hz)

    def read(self, sample_rate_hz: int) -> np.ndarray:
        """The whole segment as mono float32 (n,) at ``sample_rate_hz``.

        Raises:
            AudioFileError: as for :meth:`blocks`, or the segment is shorter than one sample.
        """
        samples = np.concatenate(list(self.blocks(sample_rate_hz)))
        if len(samples) == 0:
            raise AudioFileError(f"{self.path}: is shorter than one sample at {sample_rate_hz} Hz")
        return samples

    def _mono_blocks(self) -> Iterator[np.ndarray]:
        for block in self._decoded_blocks():
            if not np.abs(block).max() <= MAX_AMPLITUDE:  # so written, NaN fails too
                raise AudioFileError(
                    f"{self.path}: holds samples that are NaN, infinite or beyond {MAX_AMPLITUDE:g}"
                )
            yield _mono(block)

    def _decoded_blocks(self) -> Iterator[np.ndarray]:
        """The segment as it is in the file, in blocks (n, channels)."""
        remaining = self._last - self._first
        n_at_once = max(1, min(_BLOCK_SAMPLES, _BLOCK_VALUES // self._file.n_channels))
        try:
            with self._reading:
                self._file.go_to(self._first)
            while remaining > 0:
                with self._reading:
                    block = self._file.read(min(n_at_once, remaining))
                if len(block) == 0:  # the header states more samples than there are
                    break
                remaining -= len(block)
                yield block
            self._last -= remaining
            if remaining or self._last == self._file.n_samples:
                self.warning = self._file.early_end(self._last)
        except SerabByolsError:
            raise
        except Exception as error:  # whatever is wrong with a file, it is that file's error
            raise AudioFileError(f"{self.path}: {_reason(self.path, error)}") from error
        if self._first == self._last:
            raise AudioFileError(f"{self.path}: no samples could be decoded")

    def close(self) -> None:
        """Close the file, once no other thread reads from it."""
        with self._reading:
            self._file.close()

    def __enter__(self) -> AudioClip:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def resampled(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """Mono float32 blocks (n,) at ``from_hz`` as blocks at ``to_hz``; untouched where they agree."""
    if from_hz == to_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_hz, to_hz, num_channels=1, dtype="float32", quality=RESAMPLING_QUALITY)
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def resample_array(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Mono samples (n,), or (n_channels, n) or (n, n_channels) to be mixed, as float32 (m,) at ``to_hz``.

    Raises:
        InvalidInputError: another shape, no samples, integers, or a rate that is not from 1 kHz to 1 MHz.
    """
    if not _is_number(from_hz):
        raise InvalidInputError(f"the sample rate must be a number of Hz, got {from_hz!r}")
    if not MIN_RATE_HZ <= from_hz <= MAX_RATE_HZ:
        raise InvalidInputError(
            f"the sample rate must be a positive number of Hz, from 1 kHz to 1 MHz, got {from_hz}"
        )
    if isinstance(samples, np.ma.MaskedArray):
        raise InvalidInputError("samples are a masked array: fill it, or pass its unmasked part")
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise InvalidInputError(
            "samples must have shape (n_samples,) or (n_channels, n_samples) and not be empty, "
            f"got {samples.shape}"
        )
    if not np.issubdtype(samples.dtype, np.floating):
        raise InvalidInputError(
            f"samples must be floating point, nominally in [-1, 1], got {samples.dtype}; "
            "divide 16-bit integers by 32768"
        )
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        mono = samples.astype(np.float32, copy=False)
    if not np.abs(mono).max() <= MAX_AMPLITUDE:  # so written, NaN fails too
        raise InvalidInputError(f"samples are not finite (NaN or infinity), or beyond {MAX_AMPLITUDE:g}")
    if mono.ndim == 2:
        # There are fewer channels than samples, whichever axis they are.
        mono = _mono(mono if mono.shape[0] > mono.shape[1] else mono.T)
    starts = range(0, len(mono), _BLOCK_SAMPLES)
    blocks = (mono[first : first + _BLOCK_SAMPLES] for first in starts)
    return np.concatenate(list(resampled(blocks, from_hz, to_hz)))


def _mono(block: np.ndarray) -> np.ndarray:
    """(n, channels) to (n,): the mean of the channels."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _check_regular(path: str | os.PathLike[str]) -> None:
    """A pipe or a device would block or never end."""
    if "\0" in os.fsdecode(path):
        raise AudioFileError(f"{path!r}: a path cannot hold a NUL character")
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise AudioFileError(f"{path}: is not a regular file")


def _opened(path: str | os.PathLike[str]) -> LibsndfileFile | FfmpegFile:
    """By libsndfile, or what that does not know by FFmpeg."""
    try:
        return LibsndfileFile(path)
    except soundfile.LibsndfileError:
        container_format = ffmpeg_format(path) if os.path.isfile(path) else None
        if container_format is None:
            raise
    return FfmpegFile(path, container_format)


def _reason(path: str | os.PathLike[str], error: Exception) -> str:
    """A readable reason; libsndfile says only "System error." of a file that does not exist."""
    if not os.path.exists(path):
        return "no such file"
    if os.path.isdir(path):
        return "is a folder, not an audio file"
    if os.path.getsize(path) == 0:
        return "is empty (0 bytes)"
    if isinstance(error, soundfile.LibsndfileError):
        reason = error.error_string
    else:
        reason = getattr(error, "strerror", None) or str(error)
    if "does not exist" in reason:  # libsndfile's message for an .mp3 without MP3 data
        reason = "no audio in it"
    return f"cannot be read as audio ({reason.strip().rstrip('.')})"
