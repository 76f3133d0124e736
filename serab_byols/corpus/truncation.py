"""Whether an audio file was cut off: its header states more than is there, or its last page is missing."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

_MAX_CHUNKS = 10_000
_OGG_TAIL_BYTES = 1 << 17  # a page has at most 65 307 bytes
_MP3_TAIL_BYTES = 1 << 15  # a packet has at most 2 881
_ID3V1_BYTES = 128
_APE_FOOTER_BYTES = 32
_MP3_PACKET_SAMPLES = 1152
_MP3_SLACK_SAMPLES = 3 * _MP3_PACKET_SAMPLES
"""Encoders count the first and the last packets of an MP3 differently."""


def early_end(
    path: str | os.PathLike[str], kind: str, sample_rate_hz: int, n_samples: int, last: int
) -> str | None:
    """Why a file that libsndfile has read to its end is known to have had more; None if it has not.

    It reads some headers, of an MP3 without a stated length all of them; no samples.

    Args:
        path: of the file.
        kind: libsndfile's name of the format.
        sample_rate_hz: of the file.
        n_samples: the length that libsndfile gave when the file was opened.
        last: how many samples there were.
    """
    with open(path, "rb") as file:
        if kind in _STATED_BYTES:
            audio = _STATED_BYTES[kind](file)
            n_bytes = os.fstat(file.fileno()).st_size - audio.first_byte if audio else 0
            if audio is None or audio.n_bytes is None or not 0 < n_bytes < audio.n_bytes:
                return None
            return stated_and_found(last * audio.n_bytes / n_bytes / sample_rate_hz, last / sample_rate_hz)
        if kind == "FLAC" and last < n_samples:
            return stated_and_found(n_samples / sample_rate_hz, last / sample_rate_hz)
        if kind == "OGG" and not _has_last_page(file):
            return "ends early: the stream has no end-of-stream page"
        if kind == "MP3":
            return _mp3_early_end(file, sample_rate_hz, n_samples, last)
    return None


def stated_and_found(stated_s: float, found_s: float) -> str:
    """The words for a file that is shorter than its header says."""
    stated, found = (f"{round(seconds, 3):.10g}" for seconds in (stated_s, found_s))
    if stated == found:
        return "ends early: the last samples are missing"
    return f"ends early: the header states {stated} s, {found} s are there"


@dataclass(frozen=True)
class _StatedAudio:
    """Where the samples of a file begin, and how many bytes the header says they have, if it does."""

    first_byte: int
    n_bytes: int | None


def _riff(file: BinaryIO) -> _StatedAudio | None:
    """WAV, and RF64, whose sizes of 64 bits are in a chunk of their own."""
    is_big_endian = file.read(4) == b"RIFX"
    rf64_bytes, position = None, 12
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        chunk = file.read(8)
        if len(chunk) < 8:
            return None
        size = int.from_bytes(chunk[4:], "big" if is_big_endian else "little")
        if chunk[:4] == b"ds64":
            rf64_bytes = int.from_bytes(file.read(16)[8:], "little")
        elif chunk[:4] == b"data":
            if rf64_bytes is not None and size == 0xFFFFFFFF:
                return _StatedAudio(position + 8, _if_stated(rf64_bytes, n_bits=64))
            return _StatedAudio(position + 8, _if_stated(size, n_bits=32))
        position += 8 + size + size % 2
    return None


def _w64(file: BinaryIO) -> _StatedAudio | None:
    position = 40
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        chunk = file.read(24)
        size = int.from_bytes(chunk[16:], "little")
        if len(chunk) < 24 or size < 24:
            return None
        if chunk[:4] == b"data":
            return _StatedAudio(position + 24, _if_stated(size - 24, n_bits=64))
        position += (size + 7) // 8 * 8
    return None


def _aiff(file: BinaryIO) -> _StatedAudio | None:
    position = 12
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        chunk = file.read(8)
        if len(chunk) < 8:
            return None
        size = int.from_bytes(chunk[4:], "big")
        if chunk[:4] == b"SSND":
            n_bytes = _if_stated(size, n_bits=32)
            return _StatedAudio(position + 16, None if n_bytes is None else n_bytes - 8)
        position += 8 + size + size % 2
    return None


def _au(file: BinaryIO) -> _StatedAudio | None:
    head = file.read(12)
    if head[:4] == b".snd":
        return _StatedAudio(
            int.from_bytes(head[4:8], "big"), _if_stated(int.from_bytes(head[8:], "big"), n_bits=32)
        )
    first, size = int.from_bytes(head[4:8], "little"), int.from_bytes(head[8:], "little")
    return _StatedAudio(first, _if_stated(size, n_bits=32))


def _nist(file: BinaryIO) -> _StatedAudio | None:
    """NIST Sphere: a header of text, whose second line is its size."""
    head = file.read(1024)
    numbers = {name: int(value) for name, value in re.findall(rb"^(\w+) -\w+ (\d+)\s*$", head, re.MULTILINE)}
    size = re.match(rb"NIST_1A\n\s*(\d+)\n", head)
    try:
        n_values = numbers[b"sample_count"] * numbers.get(b"channel_count", 1)
        return _StatedAudio(int(size[1]), n_values * numbers[b"sample_n_bytes"]) if size else None
    except KeyError:
        return None


def _if_stated(size: int, n_bits: int) -> int | None:
    """None for what is written where the size is not known yet: zero, or about the largest number.

    The largest signed or unsigned number, less a header or a block.
    """
    for most in (1 << n_bits, 1 << (n_bits - 1)):
        if most - 4096 <= size <= most:
            return None
    return size or None


_STATED_BYTES: dict[str, Callable[[BinaryIO], _StatedAudio | None]] = {
    "WAV": _riff,
    "WAVEX": _riff,
    "RF64": _riff,
    "W64": _w64,
    "AIFF": _aiff,
    "AU": _au,
    "NIST": _nist,
}


def _has_last_page(file: BinaryIO) -> bool:
    """The last page of an OGG is whole and has the flag that ends a stream (RFC 3533, section 6)."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _OGG_TAIL_BYTES))
    tail = file.read()
    start = tail.rfind(b"OggS")
    page = tail[start:]
    if start < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return False
    n_bytes = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return len(page) >= n_bytes and bool(page[5] & 4)


# MP3


@dataclass(frozen=True)
class _Mp3Packet:
    """The header of an MPEG audio frame (ISO 11172-3, section 2.4.1.3), here called a packet."""

    version_and_layer: int
    sample_rate_code: int
    is_mono: bool
    n_bytes: int
    n_samples: int


_MPEG1, _MPEG2 = 3, 2
_LAYER_3, _LAYER_2, _LAYER_1 = 1, 2, 3
_BITRATES_KBPS = {
    (True, _LAYER_1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, _LAYER_2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, _LAYER_3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, _LAYER_1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, _LAYER_2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, _LAYER_3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG1_RATES_HZ = (44100, 48000, 32000)


def _mp3_packet(content: mmap.mmap, at: int) -> _Mp3Packet | None:
    """The packet whose header is there; None if there is no header."""
    head = content[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 0 or not 0 < bitrate < 15 or rate == 3:
        return None
    bits_per_s = 1000 * _BITRATES_KBPS[version == _MPEG1, layer][bitrate - 1]
    rate_hz = _MPEG1_RATES_HZ[rate] >> (0 if version == _MPEG1 else 1 if version == _MPEG2 else 2)
    padding = head[2] >> 1 & 1
    if layer == _LAYER_1:
        n_samples, n_bytes = 384, 4 * (12 * bits_per_s // rate_hz + padding)
    else:
        n_samples = 576 if layer == _LAYER_3 and version != _MPEG1 else 1152
        n_bytes = n_samples // 8 * bits_per_s // rate_hz + padding
    return _Mp3Packet(head[1] & 0x1E, rate, head[3] >> 6 == 3, n_bytes, n_samples)


def _mp3_early_end(file: BinaryIO, sample_rate_hz: int, n_samples: int, last: int) -> str | None:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start, end = _without_tags(content)
        first = _mp3_packet(content, start)
        if first is None:
            return None
        if _states_its_length(content, start, first):
            if n_samples - last > _MP3_SLACK_SAMPLES:
                return stated_and_found(n_samples / sample_rate_hz, last / sample_rate_hz)
            start = max(start, end - _MP3_TAIL_BYTES)
            walk = _walk(content, _packet_after(content, start, end, first), end, first)
        else:
            walk = _walk(content, start, end, first)
            # Without a stated length libsndfile goes by the bit rate of the first packet.
            if walk.n_samples - last > _MP3_SLACK_SAMPLES:
                found_s, there_s = last / sample_rate_hz, walk.n_samples / sample_rate_hz
                return (
                    f"ends early: {found_s:.6g} s of about {there_s:.6g} s were decoded, because the bit "
                    "rate varies and no header states the length"
                )
        return "ends early: the last packet is cut" if walk.is_cut else None


def _without_tags(content: mmap.mmap) -> tuple[int, int]:
    """First byte after an ID3v2 tag, and the byte where ID3v1 and APE tags begin."""
    start, end = 0, len(content)
    if content[:3] == b"ID3" and end > 10:
        start = 10 + _sync_safe(content[6:10]) + (10 if content[5] & 0x10 else 0)
    if content[max(0, end - _ID3V1_BYTES) :][:3] == b"TAG":
        end -= _ID3V1_BYTES
    footer = content[max(0, end - _APE_FOOTER_BYTES) : end]
    if footer[:8] == b"APETAGEX":
        has_header = footer[23] & 0x80
        end -= int.from_bytes(footer[12:16], "little") + (_APE_FOOTER_BYTES if has_header else 0)
    return start, max(start, end)


def _sync_safe(content: bytes) -> int:
    """Seven bits a byte, as in ID3v2 tags."""
    number = 0
    for byte in content:
        number = number << 7 | byte & 0x7F
    return number


def _states_its_length(content: mmap.mmap, start: int, first: _Mp3Packet) -> bool:
    """Whether the first packet is a Xing, Info or VBRI header with a number of packets."""
    is_mpeg1 = first.version_and_layer >> 3 == _MPEG1
    side = (17 if first.is_mono else 32) if is_mpeg1 else (9 if first.is_mono else 17)
    xing = content[start + 4 + side : start + 12 + side]
    return (xing[:4] in (b"Xing", b"Info") and xing[-1] & 1 == 1) or content[
        start + 36 : start + 40
    ] == b"VBRI"


@dataclass(frozen=True)
class _Walk:
    """What was found by going from packet to packet."""

    n_samples: int
    is_cut: bool


def _walk(content: mmap.mmap, at: int, end: int, first: _Mp3Packet) -> _Walk:
    """From one packet to the next, as long as they are like the first.

    It is cut if the end lies in a packet that has at least two others before it.
    """
    n_packets = n_samples = 0
    while at < end:
        packet = _mp3_packet(content, at)
        if packet is None or not _is_alike(packet, first):
            break
        if at + packet.n_bytes > end:
            return _Walk(n_samples, is_cut=n_packets >= 2)
        at += packet.n_bytes
        n_packets, n_samples = n_packets + 1, n_samples + packet.n_samples
    return _Walk(n_samples, is_cut=False)


def _packet_after(content: mmap.mmap, start: int, end: int, first: _Mp3Packet) -> int:
    """Where a packet begins that is followed by two others; the end if there is none."""
    for at in range(start, end):
        position = at
        for _ in range(3):
            packet = _mp3_packet(content, position)
            if packet is None or not _is_alike(packet, first):
                break
            position += packet.n_bytes
        else:
            return at
    return end


def _is_alike(packet: _Mp3Packet, first: _Mp3Packet) -> bool:
    return (packet.version_and_layer, packet.sample_rate_code) == (
        first.version_and_layer,
        first.sample_rate_code,
    )
