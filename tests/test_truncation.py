"""Files that were cut off: embedded as far as they go, with a warning."""

import re

import numpy as np
import pytest
import soundfile
from sounds import FORMATS, voice, write

from serab_byols.corpus import libsndfile_file
from serab_byols.corpus.decoding import AudioClip
from serab_byols.errors import AudioFileError

RATE_HZ = 48000
SOUND = voice(1, 3, RATE_HZ)
MORE_FORMATS = {
    "float.wav": {"subtype": "FLOAT"},
    "adpcm.wav": {"subtype": "MS_ADPCM"},
    "big.wav": {"subtype": "PCM_16", "endian": "BIG"},
    "extensible.wav": {"subtype": "PCM_24", "format": "WAVEX"},
    "a.rf64": {"subtype": "PCM_16", "format": "RF64"},
    "a.w64": {"subtype": "PCM_16"},
    "a.au": {"subtype": "PCM_16"},
    "little.au": {"subtype": "PCM_16", "endian": "LITTLE"},
    "a.nist": {"subtype": "PCM_16", "format": "NIST"},
    "ulaw.nist": {"subtype": "ULAW", "format": "NIST"},
}
CUTTABLE = FORMATS | MORE_FORMATS
HEADER_SAYS = r"ends early: the header states (\S+) s, (\S+) s are there"
NO_LAST_PAGE = "ends early: the stream has no end-of-stream page"


def read(path, **segment):
    """Samples at the file's rate, and the warning."""
    with AudioClip(path, **segment) as clip:
        return clip.read(clip.sample_rate_hz), clip.warning


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: share if share < 0 else round(share * len(content))])
    return path


@pytest.mark.parametrize("name", CUTTABLE)
def test_what_is_left_of_a_file_is_read_with_a_warning(tmp_path, name):
    path = write(tmp_path / name, SOUND, RATE_HZ, **CUTTABLE[name])
    whole, no_warning = read(path)
    assert no_warning is None
    left, warning = read(cut(path, 0.7))
    assert 0.3 * len(whole) < len(left) < 0.9 * len(whole)
    # The last packet of a lossy format may be distorted.
    np.testing.assert_array_equal(left[: len(left) - 4000], whole[: len(left) - 4000])
    if name in ("a.ogg", "a.opus"):
        assert warning == NO_LAST_PAGE
    else:
        stated, found = re.fullmatch(HEADER_SAYS, warning).groups()
        # The last packet of ADPCM is filled up.
        assert stated == "3" or (name == "adpcm.wav" and float(stated) == pytest.approx(3, abs=0.05))
        assert float(found) == pytest.approx(len(left) / RATE_HZ, abs=0.001)


@pytest.mark.parametrize("name", CUTTABLE)
def test_a_few_missing_bytes_are_noticed(tmp_path, name):
    path = write(tmp_path / name, SOUND, RATE_HZ, **CUTTABLE[name])
    _, warning = read(cut(path, -5))
    assert warning is not None
    assert warning.startswith("ends early: ")


@pytest.mark.parametrize("name", CUTTABLE)
def test_a_segment_before_the_cut_has_no_warning_and_one_up_to_it_has(tmp_path, name):
    path = cut(write(tmp_path / name, SOUND, RATE_HZ, **CUTTABLE[name]), 0.7)
    whole, _ = read(path)
    part, warning = read(path, start_s=0.25, end_s=0.75)
    np.testing.assert_allclose(part, whole[RATE_HZ // 4 : 3 * RATE_HZ // 4], atol=1e-6)
    assert warning is None
    _, warning = read(path, start_s=0.25, end_s=2.9)
    assert warning.startswith("ends early: ")


@pytest.mark.parametrize("name", CUTTABLE)
def test_a_second_pass_reads_the_same(tmp_path, name):
    path = cut(write(tmp_path / name, SOUND, RATE_HZ, **CUTTABLE[name]), 0.7)
    with AudioClip(path) as clip:
        first = clip.read(16000)
        warning, end_s = clip.warning, clip.end_s
        np.testing.assert_array_equal(clip.read(16000), first)
        assert (clip.warning, clip.end_s) == (warning, end_s)


# No false alarms


@pytest.mark.parametrize("kind", [kind for kind in soundfile.available_formats() if kind != "RAW"])
def test_whole_files_of_every_format_that_libsndfile_writes_have_no_warning(tmp_path, kind):
    read_any = False
    for subtype in soundfile.available_subtypes(kind):
        for rate_hz, n_samples, n_channels in ((48000, 50_001, 2), (8000, 3001, 1), (44100, 30_002, 1)):
            sound = np.stack([SOUND[:n_samples]] * n_channels, axis=1)
            try:
                path = write(tmp_path / "a.bin", sound, rate_hz, format=kind, subtype=subtype)
                _, warning = read(path)
            except (soundfile.LibsndfileError, ValueError, AudioFileError):
                continue  # not every format has every rate, number of channels and short files
            read_any = True
            assert warning is None, (subtype, rate_hz)
    if not read_any:
        pytest.skip("this libsndfile does not read what it wrote")


ID3V1 = b"TAG" + bytes(125)
APE = b"APETAGEX" + (2000).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(16)
LIST = b"LIST\x0d\0\0\0INFOINAM\x01\0\0\0a\0"
TRAILERS = {"ID3v1": ID3V1, "ID3v1 and APE": APE + ID3V1, "chunk": LIST, "zeros": bytes(1000)}


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("name", sorted(set(CUTTABLE) - {"a.ogg", "a.opus"}))
def test_what_follows_the_samples_is_no_cut(tmp_path, name, trailer):
    path = write(tmp_path / name, SOUND, RATE_HZ, **CUTTABLE[name])
    path.write_bytes(path.read_bytes() + TRAILERS[trailer])
    assert read(path)[1] is None


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.flac"])
def test_a_tag_before_the_samples_is_no_cut(tmp_path, name):
    path = write(tmp_path / name, SOUND, RATE_HZ, **FORMATS[name])
    path.write_bytes(b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) + path.read_bytes())
    try:
        assert read(path)[1] is None
    except AudioFileError:
        assert name != "a.mp3"  # libsndfile reads the others behind a tag, or it does not


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x80000000, 0x7FFFF000])
def test_a_wav_that_was_written_to_a_pipe_is_no_cut(tmp_path, size):
    path = write(tmp_path / "a.wav", SOUND, RATE_HZ)
    content = path.read_bytes()
    at = content.index(b"data") + 4
    path.write_bytes(
        content[:4]
        + size.to_bytes(4, "little")
        + content[8:at]
        + size.to_bytes(4, "little")
        + content[at + 4 :]
    )
    samples, warning = read(path)
    assert len(samples) == len(SOUND)
    assert warning is None


def test_an_odd_chunk_without_its_padding_byte_is_no_cut(tmp_path):
    path = write(tmp_path / "a.wav", SOUND[:1001], RATE_HZ, subtype="PCM_U8")
    content = path.read_bytes()
    at = content.index(b"data") + 4
    path.write_bytes(content[: at + 4 + 1001])
    samples, warning = read(path)
    assert (len(samples), warning) == (1001, None)


# FLAC


def test_damage_in_the_middle_of_a_flac_is_no_cut(tmp_path):
    path = write(tmp_path / "a.flac", SOUND, RATE_HZ)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(AudioFileError, match="cannot be read as audio"):
        read(path)


@pytest.mark.parametrize("start_s", [0, 0.7])
def test_all_whole_packets_of_a_cut_flac_are_read(tmp_path, monkeypatch, start_s):
    path = write(tmp_path / "a.flac", SOUND, RATE_HZ)
    whole, _ = read(path)
    cut(path, 0.7)
    left, _ = read(path, start_s=start_s)
    monkeypatch.setattr(libsndfile_file, "_RETRY_SAMPLES", 1)
    exact, _ = read(path, start_s=start_s)
    assert 0 <= len(exact) - len(left) < 16
    first = round(start_s * RATE_HZ)
    assert (first + len(exact)) % 4096 == 0  # the packets of this encoder
    np.testing.assert_array_equal(exact, whole[first : first + len(exact)])


# MP3


def without_info(path):
    """An MP3 without the packet that states how many there are."""
    content = path.read_bytes()
    assert b"Xing" in content[:200] or b"Info" in content[:200]
    first = content.index(content[:2], 4)
    path.write_bytes(content[first:])
    return path


def mp3(path, bitrate_mode):
    return write(path, SOUND, RATE_HZ, format="MP3", bitrate_mode=bitrate_mode, compression_level=0.5)


def test_an_mp3_of_constant_bit_rate_that_states_no_length(tmp_path):
    path = without_info(mp3(tmp_path / "a.mp3", "CONSTANT"))
    samples, warning = read(path)
    assert len(samples) >= len(SOUND)
    assert warning is None
    path.write_bytes(path.read_bytes() + ID3V1)
    assert read(path)[1] is None
    _, warning = read(cut(path, -200))
    assert warning == "ends early: the last packet is cut"


def test_an_mp3_of_variable_bit_rate_that_states_no_length(tmp_path):
    # libsndfile takes the bit rate of its beginning for that of the whole.
    path = without_info(mp3(tmp_path / "a.mp3", "VARIABLE"))
    samples, warning = read(path)
    assert len(samples) < 0.9 * len(SOUND)
    stated = re.match(r"ends early: (\S+) s of about (\S+) s were decoded", warning)
    assert float(stated[1]) == pytest.approx(len(samples) / RATE_HZ, abs=1e-3)
    assert float(stated[2]) == pytest.approx(3, abs=0.1)
