"""Audio files and arrays to mono float32 at the model's rate, in blocks.

Decoding is libsndfile's (WAV, FLAC, OGG, Opus, MP3, AIFF and more), resampling libsoxr's at its
high quality. Arrays and files, short or long, take the same path, so they get the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np
import soundfile
import soxr

from serab_byols.errors import AudioFileError, InvalidInputError

AUDIO_SUFFIXES = frozenset(
    {".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga"}
    | {".ogg", ".opus", ".rf64", ".snd", ".w64", ".wav", ".wave"}
)
"""Suffixes by which audio is recognised in folders; a file named explicitly may have any."""

RESAMPLING_QUALITY = "HQ"
MAX_AMPLITUDE = 1e12
"""Full scale is 1; integers kept as floats reach 2e9. Larger values are not audio (bytes read as the
wrong type), and their power would overflow float32 and make the embedding NaN."""

_BLOCK_SAMPLES = 1 << 16
_MP3_LEAD_IN_SAMPLES = 16 * 1152
"""Decoding starts this much before a segment of an MP3: a packet of 1152 samples uses bits of up to ten
packets before it."""


class AudioClip:
    """An audio file, or a segment of one, open for reading.

    Args:
        path: any format that libsndfile reads.
        start_s, end_s: segment in seconds; by default the whole file. An end past the file's end
            (infinity too) is moved to it.

    Raises:
        AudioFileError: missing, unreadable, without samples, or the segment lies outside of it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> None:
        self.path = path
        try:
            self._file = _SequentialFile(_system_path(path))
        except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: a headerless .raw
            raise AudioFileError(f"{path}: {_reason(path, error)}") from error
        self.sample_rate_hz: int = self._file.samplerate
        duration_s = self._file.frames / self.sample_rate_hz
        problem = self._problem(0.0 if start_s is None else start_s, duration_s if end_s is None else end_s)
        if problem:
            self._file.close()
            raise AudioFileError(f"{path}: {problem}")
        self._first = 0 if start_s is None else self._sample_at(start_s)
        self._last = self._file.frames if end_s is None else self._sample_at(end_s)

    def _problem(self, start_s: float, end_s: float) -> str | None:
        if self._file.frames == 0:
            return "holds no samples"
        # Written so that NaN fails too.
        if not (0 <= start_s < end_s and self._sample_at(start_s) < self._sample_at(end_s)):
            duration_s = self._file.frames / self.sample_rate_hz
            return (
                f"the segment from {start_s:g} to {end_s:g} s is empty or outside of the file's "
                f"{duration_s:g} s"
            )
        return None

    def _sample_at(self, time_s: float) -> int:
        return round(min(time_s * self.sample_rate_hz, self._file.frames))

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
        try:
            self._go_to_first()
            while remaining > 0:
                block = self._file.read(min(_BLOCK_SAMPLES, remaining), dtype="float32", always_2d=True)
                if len(block) == 0:  # the header states more samples than there are
                    break
                remaining -= len(block)
                yield block
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioFileError(f"{self.path}: {_reason(self.path, error)}") from error
        self._last -= remaining
        if self._first == self._last:
            raise AudioFileError(f"{self.path}: no samples could be decoded")

    def _go_to_first(self) -> None:
        is_mp3 = self._file.format == "MP3"
        lead_in = min(self._first, _MP3_LEAD_IN_SAMPLES) if is_mp3 else 0
        self._file.seek(self._first - lead_in)
        if lead_in:
            self._file.read(lead_in)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> AudioClip:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _SequentialFile(soundfile.SoundFile):
    """Continues every read where the last one ended.

    In a seekable file soundfile seeks to that place after every read. The decoder of an MP3 then has lost
    its state and distorts what follows; that of a FLAC without a stated length (written to a pipe) fails.
    """

    def seekable(self) -> bool:
        return False


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
    """Mono samples (n,), or (n_channels, n) to be mixed, as float32 (m,) at ``to_hz``.

    Raises:
        InvalidInputError: another shape, no samples, integers, or a rate that is not positive.
    """
    if not (np.isfinite(from_hz) and from_hz > 0):
        raise InvalidInputError(f"the sample rate must be a positive number of Hz, got {from_hz}")
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise InvalidInputError(
            "samples must have shape (n_samples,) or (n_channels, n_samples) and not be empty, "
            f"got {samples.shape}"
        )
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise InvalidInputError(
            f"samples of shape {samples.shape} have more channels than samples: "
            "pass samples.T for arrays of shape (n_samples, n_channels)"
        )
    if not np.issubdtype(samples.dtype, np.floating):
        raise InvalidInputError(
            f"samples must be floating point, nominally in [-1, 1], got {samples.dtype}; "
            "divide 16-bit integers by 32768"
        )
    mono = samples.astype(np.float32, copy=False)
    mono = mono if mono.ndim == 1 else _mono(mono.T)
    starts = range(0, len(mono), _BLOCK_SAMPLES)
    blocks = (mono[first : first + _BLOCK_SAMPLES] for first in starts)
    return np.concatenate(list(resampled(blocks, from_hz, to_hz)))


def _mono(block: np.ndarray) -> np.ndarray:
    """(n, channels) to (n,): the mean of the channels."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def _system_path(path: str | os.PathLike[str]) -> str | bytes:
    """What libsndfile opens: outside of Windows bytes, since a name need not be valid UTF-8."""
    return os.fspath(path) if os.name == "nt" else os.fsencode(path)


def _reason(path: str | os.PathLike[str], error: Exception) -> str:
    """A readable reason; libsndfile says only "System error." of a file that does not exist."""
    if not os.path.exists(path):
        return "no such file"
    if os.path.isdir(path):
        return "is a folder, not an audio file"
    if os.path.getsize(path) == 0:
        return "is empty (0 bytes)"
    reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    if "does not exist" in reason:  # libsndfile's message for an .mp3 without MP3 data
        reason = "no audio in it"
    return f"cannot be read as audio ({reason.strip().rstrip('.')})"
