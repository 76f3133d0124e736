"""Files and arrays to mono samples at the model's rate."""

import numpy as np
import pytest
import soundfile
from sounds import FORMATS, LOSSLESS, tone, voice, write

from serab_byols.corpus import decoding
from serab_byols.corpus.decoding import AudioClip, resample_array, resampled
from serab_byols.errors import AudioFileError, InvalidInputError

RATE_HZ = 16000
formats = pytest.mark.parametrize("name", FORMATS)


def read(path, rate_hz=RATE_HZ, **segment):
    with AudioClip(path, **segment) as clip:
        return clip.read(rate_hz)


def glide(seconds, rate_hz):
    """A rising tone: so simple that an MP3 encoder saves bits, which it spends frames later."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * time_s) * time_s)).astype(np.float32)


# Resampling


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000, 96000])
def test_a_resampled_sine_is_the_sine_at_the_new_rate(tmp_path, rate_hz):
    path = write(tmp_path / "a.wav", tone(1000, 0.5, rate_hz), rate_hz, subtype="FLOAT")
    samples = read(path)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 0.5 * RATE_HZ) <= 1
    inner = slice(400, -400)  # at its ends the filter sees the silence outside
    np.testing.assert_allclose(samples[inner], tone(1000, 1, RATE_HZ)[: len(samples)][inner], atol=5e-6)


def test_frequencies_above_the_new_nyquist_frequency_are_filtered_out():
    samples = resample_array(tone(11000, 0.5, 44100), 44100, RATE_HZ)
    assert np.abs(samples[400:-400]).max() < 1e-4


@pytest.mark.parametrize("block_size", [1, 1000])
@pytest.mark.parametrize("from_hz", [8000, 44100])
def test_the_block_size_does_not_change_resampled_samples(from_hz, block_size):
    samples = voice(1, 0.2, from_hz)
    blocks = (samples[first : first + block_size] for first in range(0, len(samples), block_size))
    in_blocks = np.concatenate(list(resampled(blocks, from_hz, RATE_HZ)))
    np.testing.assert_array_equal(in_blocks, np.concatenate(list(resampled([samples], from_hz, RATE_HZ))))


@pytest.mark.parametrize(
    ("samples", "rate_hz", "message"),
    [
        (np.zeros((2, 3, 4), np.float32), 16000, r"shape \(n_samples,\).*got \(2, 3, 4\)"),
        (np.zeros(0, np.float32), 16000, r"not be empty, got \(0,\)"),
        (np.zeros(100, np.int16), 16000, "floating point.*got int16; divide 16-bit integers by 32768"),
        (np.zeros(100, np.float32), float("nan"), "positive number of Hz.*got nan"),
    ],
)
def test_invalid_arrays_are_refused(samples, rate_hz, message):
    with pytest.raises(InvalidInputError, match=message):
        resample_array(samples, rate_hz, RATE_HZ)


# Decoding


@formats
def test_a_format_decodes_in_blocks_to_the_sound_that_was_encoded(tmp_path, monkeypatch, name):
    samples = glide(2, 48000)
    path = write(tmp_path / name, samples, 48000, **FORMATS[name])
    at_once, _ = soundfile.read(path, dtype="float32")
    monkeypatch.setattr(decoding, "_BLOCK_SAMPLES", 1000)  # a seek between blocks would distort an MP3
    decoded = read(path, 48000)
    np.testing.assert_array_equal(decoded, at_once)
    assert len(decoded) == len(samples)
    tolerance = 2**-15 if name in LOSSLESS else 0.2 * np.sqrt((samples**2).mean())
    assert np.sqrt(((decoded - samples) ** 2).mean()) < tolerance


@pytest.mark.parametrize("n_channels", [2, 3, 6])
def test_channels_are_averaged(tmp_path, n_channels):
    channels = np.stack([voice(seed) for seed in range(n_channels)], axis=1)
    path = write(tmp_path / "a.wav", channels, subtype="FLOAT")
    np.testing.assert_allclose(read(path), channels.mean(axis=1), atol=1e-7)


def test_many_channels_are_decoded_a_few_samples_at_a_time(tmp_path, monkeypatch):
    # Headers may state a thousand channels.
    channels = np.stack([voice(seed % 7) for seed in range(70)], axis=1)
    path = write(tmp_path / "a.wav", channels, subtype="FLOAT")
    whole = read(path)
    monkeypatch.setattr(decoding, "_BLOCK_VALUES", 7000)
    with AudioClip(path) as clip:
        blocks = list(clip.blocks(16000))
    assert max(map(len, blocks)) == 100
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("name", ["a.wav", "a.aiff"])
def test_absurd_channels_are_an_error(tmp_path, name):
    path = write(tmp_path / name, voice())
    at = path.read_bytes().index(b"fmt " if name == "a.wav" else b"COMM")
    overwrite(path, at + (10 if name == "a.wav" else 8), b"\xff\xff")
    with pytest.raises(AudioFileError, match="cannot be read as audio"):
        AudioClip(path)


@pytest.mark.parametrize("rate_hz", [1, 999, 1_000_001])
@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au"])
def test_rates_that_no_recording_has_are_an_error(tmp_path, name, rate_hz):
    path = write(tmp_path / name, voice(1, 1.25), rate_hz)  # 40 kB
    with pytest.raises(
        AudioFileError, match=rf"states a sample rate of {rate_hz} Hz, which is not from 1 kHz"
    ):
        AudioClip(path)


# Segments


@formats
def test_a_segment_equals_that_part_of_the_whole(tmp_path, name):
    path = write(tmp_path / name, glide(2, 48000), 48000, **FORMATS[name])
    whole = read(path, 48000)
    for start_s in (0.0, 0.3, 1.1):
        part = read(path, 48000, start_s=start_s, end_s=start_s + 0.5)
        first = round(start_s * 48000)
        # An MP3 decoder that starts in the middle rounds differently in the last bit.
        np.testing.assert_allclose(part, whole[first : first + 24000], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected_s"),
    [
        (0.25, None, (0.25, 0.5)),
        (None, 0.25, (0, 0.25)),
        (0.1, 7.0, (0.1, 0.5)),
        (0.1, float("inf"), (0.1, 0.5)),
        (0.09999, 0.20001, (0.1, 0.2)),  # to the nearest sample
    ],
)
def test_the_bounds_of_a_segment(tmp_path, start_s, end_s, expected_s):
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
        (0.3, 0.2),
        (0.3, 0.300001),
        (float("nan"), None),
        (None, float("nan")),
        (float("inf"), None),
    ],
)
def test_a_segment_that_is_empty_or_outside_of_the_file_is_an_error(tmp_path, start_s, end_s):
    path = write(tmp_path / "a.wav", voice())
    message = r"a\.wav: the segment .* is empty or outside of the file's 0\.5 s"
    with pytest.raises(AudioFileError, match=message):
        AudioClip(path, start_s, end_s)


# Damaged files, and files that are not audio


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path, first, content):
    whole = bytearray(path.read_bytes())
    whole[first : first + len(content)] = content
    path.write_bytes(whole)


def write_with_sample(path, value):
    samples = np.stack([voice(), voice()], axis=1).astype(np.float64)
    samples[100] = value, -value
    write(path, samples, subtype="DOUBLE")


TEXT = b"Hello! " * 99
DAMAGED = {
    "missing": ("a.wav", lambda path: None, "no such file"),
    "folder": ("a.wav", lambda path: path.mkdir(), "is a folder, not an audio file"),
    "zero bytes": ("a.wav", lambda path: path.touch(), r"is empty \(0 bytes\)"),
    "header only": ("a.wav", lambda path: write(path, np.zeros(0)), "holds no samples"),
    "text": ("a.wav", lambda path: path.write_bytes(TEXT), "cannot be read as audio"),
    "text as MP3": ("a.mp3", lambda path: path.write_bytes(TEXT), "no audio in it"),
    "text as raw": ("a.raw", lambda path: path.write_bytes(TEXT), "cannot be read as audio"),
    "cut header": ("a.wav", lambda path: path.write_bytes(b"RIFF\0\0"), "cannot be read as audio"),
    "cut FLAC": (
        "a.flac",
        lambda path: path.write_bytes(write(path, voice()).read_bytes()[:2000]),
        "no samples could be decoded",
    ),
    "corrupt FLAC": (
        "a.flac",
        lambda path: overwrite(write(path, voice()), 2000, bytes(range(256))),
        "cannot be read as audio",
    ),
    "NaN": ("a.wav", lambda path: write_with_sample(path, np.nan), "holds samples that are NaN"),
    "infinity": ("a.wav", lambda path: write_with_sample(path, np.inf), "holds samples that are NaN, inf"),
    "too loud": ("a.wav", lambda path: write_with_sample(path, 1e30), "or beyond 1e.12"),
    "too short": ("a.wav", lambda path: write(path, voice()[:3], 192000), "shorter than one sample at 16000"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_the_error_of_a_file_names_it_once_and_says_why(tmp_path, damage):
    name, make, reason = DAMAGED[damage]
    path = tmp_path / name
    make(path)
    with pytest.raises(AudioFileError, match=reason) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize(("subtype", "scale"), [("PCM_16", 1), ("FLOAT", 1), ("FLOAT", 2**31)])
def test_at_the_model_s_rate_samples_stay_as_they_are(tmp_path, subtype, scale):
    # Some programs write 32-bit integers as floats: full scale is not a limit.
    path = write(tmp_path / "a.wav", voice() * scale, subtype=subtype)
    samples = read(path)
    np.testing.assert_array_equal(samples, soundfile.read(path, dtype="float32")[0])
    np.testing.assert_allclose(samples, voice() * scale, rtol=0, atol=2**-15 * (subtype == "PCM_16"))


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.mp3", "a.flac"])
def test_a_truncated_file_ends_at_its_last_sample(tmp_path, name):
    path = write(tmp_path / name, voice(1, 1, 44100), 44100, **FORMATS[name])
    truncate(path)
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
    overwrite(path, 21, bytes([high_bits, 0, 0, 0, 0]))
    with AudioClip(path) as clip:
        np.testing.assert_array_equal(clip.read(RATE_HZ), whole)
        assert clip.end_s == 2.0
