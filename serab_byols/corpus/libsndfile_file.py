"""Audio files that libsndfile reads: WAV, FLAC, OGG, Opus, MP3, AIFF and more."""

from __future__ import annotations

import os

import numpy as np
import soundfile

from serab_byols.corpus.truncation import early_end

_MP3_LEAD_IN_SAMPLES = 16 * 1152
"""Decoding starts this much before a segment of an MP3: a packet of 1152 samples uses bits of up to ten
packets before it."""

_SKIP_SAMPLES = 1 << 14
_RETRY_SAMPLES = 16
_UNKNOWN_LENGTH = 1 << 48
"""Of a FLAC that does not state its length libsndfile gives a number of samples beyond this."""


class LibsndfileFile:
    """A file that is read forward from any sample.

    Attributes:
        sample_rate_hz, n_channels: as the header states.
        n_samples: by the header and the size of the file; there may be fewer.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._file = _SequentialFile(_system_path(path))
        self._position = 0
        self._is_at_end = False
        self.sample_rate_hz: int = self._file.samplerate
        self.n_channels: int = self._file.channels
        self.n_samples: int = self._file.frames

    def go_to(self, sample: int) -> None:
        """Continue to read at this sample."""
        lead_in = min(sample, _MP3_LEAD_IN_SAMPLES) if self._file.format == "MP3" else 0
        self._move_to(sample - lead_in)
        self._skip(lead_in)

    def _move_to(self, sample: int) -> None:
        """Without seeking where reading is there: not every format can seek (GSM, ADPCM)."""
        if sample == 0 and self._position == 0:
            return
        self._is_at_end = False
        try:
            self._file.seek(sample)
            self._position = sample
        except (soundfile.LibsndfileError, RuntimeError):
            self._reopen()
            self._skip(sample)

    def _reopen(self) -> None:
        self._file.close()
        self._file = _SequentialFile(_system_path(self._path))
        self._position = 0

    def _skip(self, n_samples: int) -> None:
        for first in range(0, n_samples, _SKIP_SAMPLES):
            self._read(min(_SKIP_SAMPLES, n_samples - first))

    def read(self, n_samples: int) -> np.ndarray:
        """The next samples, float32 (n, n_channels), fewer than asked for only at the end."""
        if self._is_at_end:
            return np.empty((0, self.n_channels), np.float32)
        first = self._position
        try:
            return self._read(n_samples)
        except soundfile.LibsndfileError:
            if self._file.format != "FLAC" or self.n_samples > _UNKNOWN_LENGTH or self._has_last_sample():
                raise
            return self._read_up_to_the_cut(first, n_samples)

    def _read(self, n_samples: int) -> np.ndarray:
        block = self._file.read(n_samples, dtype="float32", always_2d=True)
        self._position += len(block)
        return block

    def _has_last_sample(self) -> bool:
        """A damaged FLAC has it, one that was cut does not."""
        with _SequentialFile(_system_path(self._path)) as file:
            try:
                file.seek(self.n_samples - 1)
                return len(file.read(1)) == 1
            except soundfile.LibsndfileError:
                return False

    def _read_up_to_the_cut(self, first: int, n_samples: int) -> np.ndarray:
        """What of a block is there; the error of the block as a whole does not say how much that is."""
        self._reopen()
        self._skip(first)
        block = np.empty((n_samples, self.n_channels), np.float32)
        try:
            for start in range(0, n_samples, _RETRY_SAMPLES):
                block[start : start + _RETRY_SAMPLES] = self._read(min(_RETRY_SAMPLES, n_samples - start))
        except soundfile.LibsndfileError:
            self._is_at_end = True
        return block[: self._position - first]

    def early_end(self, last: int) -> str | None:
        """Whether the file ends before it should, and why that is known, if ``last`` is its last sample."""
        return early_end(self._path, self._file.format, self.sample_rate_hz, self.n_samples, last)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _SequentialFile(soundfile.SoundFile):
    """Continues every read where the last one ended.

    In a seekable file soundfile seeks to that place after every read. The decoder of an MP3 then has lost
    its state and distorts what follows; that of a FLAC without a stated length (written to a pipe) fails.
    """

    def seekable(self) -> bool:
        return False


def _system_path(path: str | os.PathLike[str]) -> str | bytes:
    """What libsndfile opens: outside of Windows bytes, since a name need not be valid UTF-8."""
    return os.fspath(path) if os.name == "nt" else os.fsencode(path)
