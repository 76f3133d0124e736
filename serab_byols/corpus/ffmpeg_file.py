"""Audio files that libsndfile does not know, read by FFmpeg through PyAV: m4a, aac, webm, wma, amr, video."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np

from serab_byols.corpus.truncation import stated_and_found
from serab_byols.errors import AudioFileError, missing_extra

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

FFMPEG_SUFFIXES = frozenset(
    {".aac", ".amr", ".m4a", ".m4b", ".mka", ".mkv", ".mov", ".mp4", ".webm", ".wma"}  # with their sound
)

_AUDIO_CODECS = (
    "aac,ac3,alac,amrnb,amrwb,eac3,flac,mp2,mp2float,mp3,mp3float,opus,pcm_s16be,pcm_s16le,pcm_s24le,vorbis,"
    "wmalossless,wmapro,wmav1,wmav2"
)
"""What may be decoded to find out what is in a file: no video."""

_RESTART_SAMPLES = 1 << 21
_LEAD_IN_SAMPLES = 1 << 16
_MAX_KEPT_BYTES = 1 << 25
_SLACK_S = 0.1
"""The stated duration of an m4a may include what the encoder adds at both ends."""

_GAP_S = 0.25
"""By how much the time of a packet may differ from the time of the samples before it."""

_MAX_PLANES = 7
"""Of more channels that lie one after the other PyAV does not find the last: it looks for a null pointer
after them, and reads whatever is there."""

_MAX_BOXES = 10_000


def ffmpeg_format(path: str | os.PathLike[str]) -> str | None:
    """FFmpeg's name of the file's format, by its first bytes; None if it is none of those read here.

    FFmpeg is not let guess: it also knows playlists, which name other files and addresses.
    """
    with open(path, "rb") as file:
        head = file.read(16)
        if head[:3] == b"ID3" and len(head) >= 10:  # a tag; its size has seven bits a byte
            size = sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
            file.seek(10 + size)
            head = file.read(16)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp", b"moof"):
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head == bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"):
        return "asf"
    if head.startswith((b"#!AMR\n", b"#!AMR-WB\n")):
        return "amr"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS
        return "aac"
    return None


class FfmpegFile:
    """The first audio track of a file, read forward from any sample.

    The samples are those that FFmpeg decodes from the beginning on, without the encoder's delay where the
    file states it. In an m4a or mp4 the decoder restarts at fixed places, every 44 s at 48 kHz, for a segment
    and for the whole file alike. So a segment is found quickly, and is equal to that part of the whole even
    where a decoder fills in noise that depends on all it has decoded before. The other formats have no exact
    index: they are decoded from their beginning.

    Where the header does not state the length of the audio (in anything but m4a, mp4 and mov) it is decoded
    once to count the samples. Those of a short file, up to 32 MiB, are kept, so it is not decoded again.

    Attributes:
        sample_rate_hz, n_channels: of the first decoded samples.
        n_samples: stated or counted.
    """

    def __init__(self, path: str | os.PathLike[str], container_format: str) -> None:
        self._path = path
        self._format = container_format
        self._is_cut = False
        self._gap = (0.0, 0.0)
        self._kept: list[np.ndarray] | None = None
        self._unused: _Decoder | None = _Decoder(path, container_format)
        self._arrays = self._decoded(0)
        try:
            first = self._unused.first_frame
            self.sample_rate_hz: int = first.sample_rate
            self.n_channels: int = first.layout.nb_channels
            self._restart_samples = self._unused.restart_samples()
            stated = self._unused.stated_samples()
            self._is_stated = stated is not None
            self.n_samples: int = self._count() if stated is None else stated
        except BaseException:
            self.close()
            raise
        self._rest = self._no_samples()

    def _no_samples(self) -> np.ndarray:
        return np.empty((0, self.n_channels), np.float32)

    def _count(self) -> int:
        n_samples = n_bytes = 0
        kept: list[np.ndarray] = []
        for array in self._decoded(0):
            n_samples += len(array)
            n_bytes += array.nbytes
            kept.append(array)
            if n_bytes > _MAX_KEPT_BYTES:
                kept = []
        self._kept = kept if n_bytes <= _MAX_KEPT_BYTES else None
        return n_samples

    def go_to(self, sample: int) -> None:
        """Continue to read at this sample."""
        self._arrays.close()
        self._arrays = self._decoded(sample)
        self._rest = self._no_samples()

    def read(self, n_samples: int) -> np.ndarray:
        """The next samples, float32 (n, n_channels), fewer than asked for only at the end."""
        parts = [self._no_samples()]
        while n_samples > 0:
            if len(self._rest) == 0:
                array = next(self._arrays, None)
                if array is None:
                    break
                self._rest = array
            parts.append(self._rest[:n_samples])
            self._rest = self._rest[n_samples:]
            n_samples -= len(parts[-1])
        return np.concatenate(parts)

    def _decoded(self, first: int) -> Generator[np.ndarray, None, None]:
        """Arrays (n, n_channels) from sample ``first`` to the end of the file."""
        if self._kept is not None:
            yield from _without_first(first, self._kept)
            return
        position = first
        while True:
            restart = position // self._restart_samples if self._restart_samples else 0
            for array in self._decoded_from_restart(restart, position):
                position += len(array)
                yield array
            if not self._restart_samples or position < (restart + 1) * self._restart_samples:
                return

    def _decoded_from_restart(self, restart: int, first: int) -> Generator[np.ndarray, None, None]:
        """Samples from ``first`` to the next restart."""
        decoder = self._decoder_at(restart)
        try:
            position = decoder.position()
            if position > first:
                raise AudioFileError(f"{self._path}: cannot be decoded from the middle")
            last = (restart + 1) * self._restart_samples or sys.maxsize
            for array in _without_first(first - position, self._checked(decoder)):
                yield array[: last - first]
                first += len(array)
                if first >= last:
                    return
            self._is_cut |= decoder.is_cut
        finally:
            decoder.close()

    def _decoder_at(self, restart: int) -> _Decoder:
        if restart == 0 and self._unused is not None:
            decoder, self._unused = self._unused, None
            return decoder
        return _Decoder(self._path, self._format, restart * self._restart_samples)

    def _checked(self, decoder: _Decoder) -> Iterator[np.ndarray]:
        position = decoder.position()
        for frame in decoder.frames():
            found = frame.sample_rate, frame.layout.nb_channels
            if found != (self.sample_rate_hz, self.n_channels):
                raise AudioFileError(
                    f"{self._path}: changes from {self.sample_rate_hz} Hz and {self.n_channels} channels to "
                    f"{found[0]} Hz and {found[1]}"
                )
            time_s, position_s = decoder.time_s(frame), position / self.sample_rate_hz
            if time_s is not None and time_s - position_s > max(self._gap[0], _GAP_S):
                self._gap = time_s - position_s, position_s
            yield _samples(frame)
            position += frame.samples

    def early_end(self, last: int) -> str | None:
        """Whether the file lacks something, and why that is known, if ``last`` is its last sample."""
        gap_s, position_s = self._gap
        gap = f"has a gap: about {gap_s:.3g} s are missing after {position_s:.6g} s" if gap_s else None
        return "; ".join(filter(None, (gap, self._cut(last)))) or None

    def _cut(self, last: int) -> str | None:
        if self._is_stated and self.n_samples - last > _SLACK_S * self.sample_rate_hz:
            return stated_and_found(self.n_samples / self.sample_rate_hz, last / self.sample_rate_hz)
        n_bytes, stated_bytes = os.path.getsize(self._path), _stated_bytes(self._path, self._format)
        if stated_bytes is not None and stated_bytes > n_bytes:
            return f"ends early: the header states {stated_bytes} bytes, {n_bytes} are there"
        return "ends early: the last packet cannot be decoded" if self._is_cut else None

    def close(self) -> None:
        """Close the file."""
        self._arrays.close()
        if self._unused is not None:
            self._unused.close()


class _Decoder:
    """One run of FFmpeg over the file, from its beginning, or from shortly before a sample of an m4a or mp4.

    Attributes:
        first_frame: its first samples.
        is_cut: once all frames were taken: the last packet could not be decoded.
    """

    def __init__(self, path: str | os.PathLike[str], container_format: str, near: int = 0) -> None:
        self._path = path
        self._format = container_format
        self._av = _import_av(path)
        self.is_cut = False
        self._file = open(path, "rb")  # noqa: SIM115
        try:
            self._container: InputContainer = self._av.open(
                _Bytes(self._file),
                format=container_format,
                options={"codec_whitelist": _AUDIO_CODECS},
                io_open=_refuse_to_open,
                metadata_errors="replace",  # a title in another encoding is no damage
            )
            self._stream = self._audio_stream()
            self._start = near
            if near:
                self._container.seek(max(0, near - _LEAD_IN_SAMPLES), stream=self._stream)
            self._decoded = self._decode()
            first = next(self._decoded, None)
            if first is None:
                raise AudioFileError(f"{path}: no samples could be decoded")
            self.first_frame: AudioFrame = first
        except BaseException:
            self._file.close()
            raise

    def _audio_stream(self) -> AudioStream:
        if not self._container.streams.audio:
            raise AudioFileError(f"{self._path}: has no sound (no audio track)")
        stream = self._container.streams.audio[0]
        if stream.codec_context is None:
            raise AudioFileError(f"{self._path}: the codec of its sound is unknown")
        for other in self._container.streams:
            if other is not stream:
                other.discard = self._av.stream.Discard.all
        return stream

    def _decode(self) -> Iterator[AudioFrame]:
        """All frames; a packet that cannot be decoded is an error unless it is the last one."""
        error: Exception | None = None
        for packet in self._container.demux(self._stream):
            if error is not None and packet.size:
                raise error
            try:
                frames = packet.decode()
            except self._av.FFmpegError as caught:
                error, self.is_cut = caught, True
                continue
            yield from frames

    def frames(self) -> Iterator[AudioFrame]:
        """All frames, once."""
        yield self.first_frame
        yield from self._decoded

    def position(self) -> int:
        """Number of the first frame's first sample in the file."""
        if not self._start:
            return 0
        if self.first_frame.pts is None:
            raise AudioFileError(f"{self._path}: cannot be decoded from the middle")
        return self.first_frame.pts - (self._stream.start_time or 0)

    def time_s(self, frame: AudioFrame) -> float | None:
        """Time of a frame in the file by its header, if that has one."""
        first, time_base = self.first_frame.pts, self._stream.time_base
        if frame.pts is None or first is None or time_base is None:
            return None
        return float((frame.pts - first) * time_base) + self.position() / self.first_frame.sample_rate

    def stated_samples(self) -> int | None:
        """The length by the header, if that is exact: of an m4a, mp4 or mov not written piece by piece."""
        stream = self._stream
        if self._format != "mov" or not stream.duration or not stream.time_base or stream.duration < 0:
            return None
        if _is_fragmented(self._path):
            return None
        return round(stream.duration * stream.time_base * self.first_frame.sample_rate)

    def restart_samples(self) -> int:
        """Distance of the restarts; 0 without an index in samples or with packets of different lengths."""
        stream, packet = self._stream, self._stream.codec_context.frame_size
        if self.stated_samples() is None or not packet or self.first_frame.pts != (stream.start_time or 0):
            return 0
        if stream.time_base != Fraction(1, self.first_frame.sample_rate):
            return 0
        n_packets = _RESTART_SAMPLES // packet
        times = [
            stream.index_entries[i].timestamp for i in range(0, len(stream.index_entries), max(1, n_packets))
        ]
        is_even = all(time - times[0] == i * n_packets * packet for i, time in enumerate(times))
        return n_packets * packet if is_even else 0

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self._file.close()


class _Bytes:
    """A file without its name, by which FFmpeg would guess, and without a way to write."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read, self.tell = file.read, file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """A damaged file leads to places that there are not; PyAV would print the exception."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return -1


def _refuse_to_open(url: str, *_: object) -> NoReturn:
    """A file may name others, and addresses; none of them is opened."""
    raise OSError("names another file, which is not opened")


def _import_av(path: str | os.PathLike[str]) -> Any:
    try:
        import av
    except ImportError as error:
        suffix = os.path.splitext(os.fsdecode(path))[1] or "this kind of"
        raise AudioFileError(f"{path}: {missing_extra('av', 'av', f'reading {suffix} files')}") from error
    return av


def _without_first(n_samples: int, arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for array in arrays:
        if n_samples < len(array):
            yield array[n_samples:]
        n_samples = max(0, n_samples - len(array))


def _samples(frame: AudioFrame) -> np.ndarray:
    """float32 (n, n_channels); integers are scaled to [-1, 1)."""
    n_channels = frame.layout.nb_channels
    if frame.format.is_planar and n_channels > _MAX_PLANES:
        frame = _interleaved(frame)
    array: np.ndarray = frame.to_ndarray()
    array = array.T if frame.format.is_planar else array.reshape(-1, n_channels)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    half = 2.0 ** (8 * array.dtype.itemsize - 1)
    return ((array - half if array.dtype.kind == "u" else array) / half).astype(np.float32)


def _interleaved(frame: AudioFrame) -> AudioFrame:
    from av import AudioResampler

    (converted,) = AudioResampler("flt").resample(frame)
    return converted


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Type and last byte of the boxes at the top of an MP4 (ISO 14496-12, section 4.2)."""
    position = 0
    for _ in range(_MAX_BOXES):
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8:  # 0: up to the end of the file
            return
        position += size
        yield head[4:8], position


def _is_fragmented(path: str | os.PathLike[str]) -> bool:
    """Whether the sound comes in pieces with headers of their own, so that no header states its length."""
    with open(path, "rb") as file:
        return any(kind == b"moof" for kind, _ in _boxes(file))


def _stated_bytes(path: str | os.PathLike[str], container_format: str) -> int | None:
    """The size of the file by its header, if it is stated."""
    with open(path, "rb") as file:
        if container_format == "mov":
            return max((end for kind, end in _boxes(file) if kind == b"mdat"), default=None)
        if container_format == "matroska":
            return _stated_matroska_bytes(file.read(4096))
        return None


def _stated_matroska_bytes(head: bytes) -> int | None:
    """Where the segment ends, which follows the EBML header (RFC 8794, RFC 9559); None if that is unknown."""
    first, size = _element_size(head, 4)
    if size is None or head[first + size : first + size + 4] != b"\x18\x53\x80\x67":
        return None
    first, size = _element_size(head, first + size + 4)
    return None if size is None else first + size


def _element_size(head: bytes, at: int) -> tuple[int, int | None]:
    """Where an element's content begins, and its size; all ones stand for unknown."""
    if at >= len(head) or head[at] == 0:
        return at, None
    n_bytes = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + n_bytes], "big") & (1 << 7 * n_bytes) - 1
    return at + n_bytes, None if value == (1 << 7 * n_bytes) - 1 else value
