"""Files and arrays to mono samples at the model's rate."""

import numpy as np
import pytest
import soundfile
from sounds import FORMATS, LOSSLESS, not_utf8_folder, tone, voice, write

from serab_byols.corpus import decoding as audio
from serab_byols.corpus.decoding import AudioClip, resample_array, resampled
from serab_byols.errors import AudioFileError, InvalidInputError

RATE_HZ = 16000
RATES_HZ = (8000, 11025, 22050, 44100, 48000, 96000)
formats = pytest.mark.parametrize("name", FORMATS)


def read(path, rate_hz=RATE_HZ, **segment):
    with AudioClip(path, **segment) as clip:
        return clip.read(rate_hz)


def glide(seconds, rate_hz):
    """A rising tone: so simple that an MP3 encoder saves bits, which it spends frames later."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * time_s) * time_s)).astype(np.float32)


# Resampling


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_resampled_sine_is_the_sine_at_the_new_rate(tmp_path, rate_hz):
    path = write(tmp_path / "a.wav", tone(1000, 0.5, rate_hz), rate_hz, subtype="FLOAT")
    samples = read(path)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 0.5 * RATE_HZ) <= 1
    inner = slice(400, -400)  # at its ends the filter sees the silence outside
    np.testing.assert_allclose(samples[inner], tone(1000, 1, RATE_HZ)[: len(samples)][inner], atol=5e-6)


def test_what_lies_above_the_new_nyquist_frequency_does_not_fold_back():
    samples = resample_array(tone(11000, 0.5, 44100), 44100, RATE_HZ)
    assert np.abs(samples[400:-400]).max() < 1e-4


@pytest.mark.parametrize("block_size", [1, 7, 1000, 4096])
@pytest.mark.parametrize("from_hz", [8000, 44100])
def test_the_resampler_gives_the_same_samples_for_every_block_size(from_hz, block_size):
    samples = voice(1, 0.2, from_hz)
    blocks = (samples[first : first + block_size] for first in range(0, len(samples), block_size))
    in_blocks = np.concatenate(list(resampled(blocks, from_hz, RATE_HZ)))
    np.testing.assert_array_equal(in_blocks, np.concatenate(list(resampled([samples], from_hz, RATE_HZ))))


def test_at_the_right_rate_samples_stay_as_they_are(tmp_path):
    path = write(tmp_path / "a.wav", voice())
    pcm, _ = soundfile.read(path, dtype="int16")
    np.testing.assert_array_equal(read(path), pcm / np.float32(32768))


@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_an_array_gets_the_same_samples_as_its_file(tmp_path, n_channels):
    samples = np.stack([voice(seed, 2, 44100) for seed in range(n_channels)], axis=1)
    path = write(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    np.testing.assert_array_equal(resample_array(samples.T, 44100, RATE_HZ), read(path))


@pytest.mark.parametrize(
    ("samples", "rate_hz", "message"),
    [
        (np.zeros((2, 3, 4), np.float32), 16000, r"shape \(n_samples,\).*got \(2, 3, 4\)"),
        (np.zeros(0, np.float32), 16000, r"not be empty, got \(0,\)"),
        (np.zeros(100, np.int16), 16000, "floating point.*got int16; divide 16-bit integers by 32768"),
        (np.zeros(100, np.float32), 0, "positive number of Hz.*got 0"),
        (np.zeros(100, np.float32), -16000, "positive number of Hz.*got -16000"),
        (np.zeros(100, np.float32), float("nan"), "positive number of Hz.*got nan"),
    ],
)
def test_impossible_arrays_are_refused(samples, rate_hz, message):
    with pytest.raises(InvalidInputError, match=message):
        resample_array(samples, rate_hz, RATE_HZ)


# Channels


def test_channels_are_averaged(tmp_path):
    left, right = voice(1), voice(2)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(read(path), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("n_channels", [2, 3, 6])
def test_a_channel_repeated_is_the_same_clip(tmp_path, n_channels):
    samples = voice(1, rate_hz=44100)
    one = write(tmp_path / "one.wav", samples, 44100)
    many = write(tmp_path / "many.wav", np.stack([samples] * n_channels, axis=1), 44100)
    np.testing.assert_allclose(read(many), read(one), rtol=0, atol=1e-7)


# Decoding


@formats
def test_a_format_decodes_to_the_sound_that_was_encoded(tmp_path, name):
    samples = voice(2, 1, 48000)
    decoded = read(write(tmp_path / name, samples, 48000, **FORMATS[name]), 48000)
    assert len(decoded) == len(samples)
    tolerance = 2**-15 if name in LOSSLESS else 0.2 * np.sqrt((samples**2).mean())
    assert np.sqrt(((decoded - samples) ** 2).mean()) < tolerance


@formats
@pytest.mark.parametrize("block_size", [1000, 65536])
def test_reading_in_blocks_is_reading_at_once(tmp_path, monkeypatch, name, block_size):
    # Seeking between the blocks of an MP3 distorts the start of each.
    path = write(tmp_path / name, glide(2, 48000), 48000, **FORMATS[name])
    at_once, _ = soundfile.read(path, dtype="float32")
    monkeypatch.setattr(audio, "_BLOCK_SAMPLES", block_size)
    np.testing.assert_array_equal(read(path, 48000), at_once)


def test_the_blocks_can_be_had_again(tmp_path):
    path = write(tmp_path / "a.flac", voice(), 44100)
    with AudioClip(path, 0.1) as clip:
        first, second = clip.read(RATE_HZ), clip.read(RATE_HZ)
    np.testing.assert_array_equal(first, second)


# Segments


@formats
@pytest.mark.parametrize("start_s", [0.0, 0.3, 1.1])
def test_a_segment_is_that_part_of_the_whole(tmp_path, name, start_s):
    path = write(tmp_path / name, glide(2, 48000), 48000, **FORMATS[name])
    part = read(path, 48000, start_s=start_s, end_s=start_s + 0.5)
    first = round(start_s * 48000)
    # An MP3 decoder that starts in the middle rounds differently in the last bit.
    np.testing.assert_allclose(part, read(path, 48000)[first : first + 24000], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected_s"),
    [
        (None, None, (0, 0.5)),
        (0.25, None, (0.25, 0.5)),
        (None, 0.25, (0, 0.25)),
        (0.1, 7.0, (0.1, 0.5)),
        (0.1, float("inf"), (0.1, 0.5)),
        (0.09999, 0.20001, (0.1, 0.2)),  # to the nearest sample
    ],
)
def test_a_segment_says_which_part_it_is(tmp_path, start_s, end_s, expected_s):
    path = write(tmp_path / "a.wav", voice(rate_hz=8000), 8000)
    with AudioClip(path, start_s, end_s) as clip:
        assert (clip.start_s, clip.end_s) == expected_s
        assert len(clip.read(8000)) == round((expected_s[1] - expected_s[0]) * 8000)


@pytest.mark.parametrize(
    ("start_s", "end_s"),
    [
        (-0.1, None),
        (None, -0.1),
        (0.5, None),
        (9.0, None),
        (0.3, 0.2),
        (0.3, 0.3),
        (0.3, 0.300001),
        (float("nan"), None),
        (None, float("nan")),
        (float("inf"), None),
        (float("-inf"), None),
    ],
)
def test_a_segment_outside_of_the_file_or_empty_is_an_error(tmp_path, start_s, end_s):
    path = write(tmp_path / "a.wav", voice())
    with pytest.raises(
        AudioFileError, match=r"a\.wav: the segment .* is empty or outside of the file's 0\.5 s"
    ):
        AudioClip(path, start_s, end_s)


# Files that are damaged or something else


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def with_sample(path, value):
    samples = np.stack([voice(), voice()], axis=1).astype(np.float64)
    samples[100] = value, -value
    return write(path, samples, subtype="DOUBLE")


def overwritten(path, first, content):
    whole = bytearray(path.read_bytes())
    whole[first : first + len(content)] = content
    path.write_bytes(whole)
    return path


def file_of(path, content):
    path.write_bytes(content)
    return path


def folder_of(path):
    path.mkdir()
    return path


DAMAGED = {
    "missing": (lambda folder: folder / "a.wav", "no such file"),
    "folder": (lambda folder: folder_of(folder / "a.wav"), "is a folder, not an audio file"),
    "zero bytes": (lambda folder: file_of(folder / "a.wav", b""), r"is empty \(0 bytes\)"),
    "header only": (lambda folder: write(folder / "a.wav", np.zeros(0)), "holds no samples"),
    "text": (lambda folder: file_of(folder / "a.wav", b"Hello! " * 99), "cannot be read as audio"),
    "text as MP3": (lambda folder: file_of(folder / "a.mp3", b"Hello! " * 99), "no audio in it"),
    "text as raw": (lambda folder: file_of(folder / "a.raw", b"Hello! " * 99), "cannot be read as audio"),
    "cut header": (lambda folder: file_of(folder / "a.wav", b"RIFF\0\0"), "cannot be read as audio"),
    "cut FLAC": (lambda folder: truncated(write(folder / "a.flac", voice())), "cannot be read as audio"),
    "corrupt FLAC": (
        lambda folder: overwritten(write(folder / "a.flac", voice()), 2000, bytes(range(256))),
        "cannot be read as audio",
    ),
    "NaN": (lambda folder: with_sample(folder / "a.wav", np.nan), "holds samples that are NaN"),
    "infinity": (lambda folder: with_sample(folder / "a.wav", np.inf), "holds samples that are NaN, inf"),
    "absurdly loud": (lambda folder: with_sample(folder / "a.wav", 1e30), "or beyond 1e.12"),
    "too short": (
        lambda folder: write(folder / "a.wav", voice()[:3], 192000),
        "is shorter than one sample at 16000 Hz",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_file_that_is_no_audio_is_an_error_that_names_it_and_says_why(tmp_path, damage):
    make, reason = DAMAGED[damage]
    path = make(tmp_path)
    with pytest.raises(AudioFileError, match=reason) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1


def test_full_scale_is_not_a_limit(tmp_path):
    integers = voice() * 2**31  # some programs write 32-bit integers as floats
    path = write(tmp_path / "a.wav", integers, subtype="FLOAT")
    np.testing.assert_array_equal(read(path), integers)


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.mp3"])
def test_a_truncated_file_ends_where_its_samples_do(tmp_path, name):
    path = truncated(write(tmp_path / name, voice(1, 1, 44100), 44100, **FORMATS[name]))
    with AudioClip(path) as clip:
        n_samples = len(clip.read(44100))
        assert clip.end_s == n_samples / 44100
    assert 0.2 < clip.end_s < 0.7


def test_a_flac_that_does_not_state_its_length_is_read_to_its_end(tmp_path):
    samples = voice(1, 2, 44100)
    path = write(tmp_path / "a.flac", samples, 44100)
    whole = read(path)
    # The low 36 bits of STREAMINFO's bytes 10 to 17 are the number of samples; encoders that write
    # to a pipe leave them zero. STREAMINFO begins at byte 8.
    high_bits = path.read_bytes()[21] & 0xF0
    overwritten(path, 21, bytes([high_bits, 0, 0, 0, 0]))
    with AudioClip(path) as clip:
        np.testing.assert_array_equal(clip.read(RATE_HZ), whole)
        assert clip.end_s == 2.0


def test_a_path_need_not_be_utf8(tmp_path):
    path = write(tmp_path / "a.wav", voice())
    moved = path.rename(not_utf8_folder(tmp_path) / "a.wav")
    assert len(read(moved)) == len(voice())
