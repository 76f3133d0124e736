"""Files that libsndfile does not know: m4a, aac, webm, mka, wma, amr, and the sound of videos."""

import os
import re
import sys

import numpy as np
import pytest
import soundfile
from ffmpeg_sounds import FFMPEG_FORMATS, LOSSLESS, av, decode, encode, encode_pictures_only
from sounds import tone, voice

import serab_byols
from serab_byols.corpus import decoding, ffmpeg_file
from serab_byols.corpus.decoding import AUDIO_SUFFIXES, AudioClip
from serab_byols.corpus.listing import find_segments
from serab_byols.errors import AudioFileError

ffmpeg_formats = pytest.mark.parametrize("name", FFMPEG_FORMATS)


def rate_of(name):
    return FFMPEG_FORMATS[name][2]


def read(path, rate_hz=None, **segment):
    with AudioClip(path, **segment) as clip:
        return clip.read(rate_hz or clip.sample_rate_hz)


@ffmpeg_formats
def test_a_format_decodes_to_the_sound_that_was_encoded(tmp_path, name):
    samples = voice(3, 1.5, rate_of(name))
    path = encode(tmp_path / name, samples)
    decoded = read(path)
    if name in LOSSLESS:
        np.testing.assert_allclose(decoded, samples, atol=2**-15)
        return
    assert abs(len(decoded) - len(samples)) <= 4096
    # Some formats do not state the encoder's delay, so the sound may begin earlier or later.
    size = 2 * len(samples)
    products = np.fft.irfft(np.fft.rfft(decoded, size) * np.fft.rfft(samples, size).conj())
    similarity = products.max() / np.linalg.norm(decoded) / np.linalg.norm(samples)
    assert similarity > (0.7 if name == "a.amr" else 0.9)


@pytest.mark.parametrize("name", ["a.m4a", "a.m4b", "a.mp4", "a.mov", "a.webm", "a.mka"])
def test_the_length_is_that_of_the_sound_that_was_encoded(tmp_path, name):
    samples = voice(3, 1.2345, rate_of(name))
    with AudioClip(encode(tmp_path / name, samples)) as clip:
        assert clip.end_s == pytest.approx(1.2345, abs=0.001)  # before anything is read; stated in ms
        assert len(clip.read(clip.sample_rate_hz)) == round(clip.end_s * clip.sample_rate_hz)


@ffmpeg_formats
def test_samples_are_those_of_ffmpeg(tmp_path, name):
    path = encode(tmp_path / name, voice(3, 1.5, rate_of(name)))
    decoded = read(path)
    np.testing.assert_array_equal(decoded, decode(path)[0, : len(decoded)])


@ffmpeg_formats
def test_an_embedding_is_that_of_the_decoded_array(tmp_path, narrow, name):
    path = encode(
        tmp_path / name, np.stack([voice(1, 1.5, 48000), voice(2, 1.5, 48000)], axis=1), **STEREO[name]
    )
    model = narrow()
    record = serab_byols.embed_file(path, model)
    rate_hz = record_rate(path)
    array = decode(path)[:, : round(record.end * rate_hz)]
    expected = serab_byols.embed_audio(array, rate_hz, model).numpy()
    np.testing.assert_allclose(record.embedding, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


STEREO = {name: {"rate_hz": 48000} for name in FFMPEG_FORMATS} | {
    "a.amr": {"container": "mp4", "rate_hz": 48000, "codec": "aac"},  # AMR has one channel
    "a.wma": {"rate_hz": 48000},
}


def record_rate(path):
    with AudioClip(path) as clip:
        return clip.sample_rate_hz


@pytest.mark.parametrize("n_channels", [2, 6])
def test_channels_are_averaged(tmp_path, n_channels):
    channels = np.stack([voice(seed) for seed in range(n_channels)], axis=1)
    path = encode(tmp_path / "a.mka", channels)
    np.testing.assert_allclose(read(path), channels.mean(axis=1), atol=2**-14)


def test_eight_channels_are_read(tmp_path):
    # Of eight planes PyAV reads more than there are, which would end the process.
    path = encode(tmp_path / "a.m4a", np.stack([voice(1)] * 8, axis=1))
    with AudioClip(path) as clip:
        mono = clip.read(16000)
    # The last channel is for low frequencies only; the others are alike.
    np.testing.assert_allclose(mono[2000:-2000], 7 / 8 * voice(1)[2000 : len(mono) - 2000], atol=0.1)


# Segments


@ffmpeg_formats
@pytest.mark.parametrize("is_kept", [True, False])
def test_a_segment_equals_that_part_of_the_whole(tmp_path, monkeypatch, name, is_kept):
    monkeypatch.setattr(decoding, "_BLOCK_SAMPLES", 1000)
    monkeypatch.setattr(ffmpeg_file, "_MAX_KEPT_BYTES", 1 << 25 if is_kept else 0)
    rate_hz = rate_of(name)
    path = encode(tmp_path / name, voice(3, 2, rate_hz))
    whole = read(path)
    for start_s in (0.0, 0.3, 1.1):
        part = read(path, start_s=start_s, end_s=start_s + 0.5)
        first = round(start_s * rate_hz)
        np.testing.assert_array_equal(part, whole[first : first + rate_hz // 2])


def noise(seconds, rate_hz):
    """An encoder leaves out high bands of noise, and the decoder fills in noise of its own."""
    return (0.1 * np.random.default_rng(0).normal(size=round(seconds * rate_hz))).astype(np.float32)


@pytest.mark.parametrize("sound", [np.tile(voice(3, 1, 16000), 20), noise(20, 16000)], ids=["voice", "noise"])
def test_a_segment_of_a_long_m4a_equals_that_part_of_the_whole(tmp_path, monkeypatch, sound):
    monkeypatch.setattr(ffmpeg_file, "_RESTART_SAMPLES", 100_000)
    path = encode(tmp_path / "a.m4a", sound)
    whole = read(path)
    assert len(whole) == len(sound)
    for start_s in (0.5, 6.0, 6.2, 12.3, 18.0):  # about 6.1 s from one restart to the next
        part = read(path, start_s=start_s, end_s=start_s + 1.5)
        first = round(start_s * 16000)
        np.testing.assert_array_equal(part, whole[first : first + 24000])
    np.testing.assert_allclose((whole**2).mean(), (decode(path)[0, : len(whole)] ** 2).mean(), rtol=0.01)


def test_restarts_of_the_decoder_are_not_heard(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.m4a", tone(440, 20, 16000))
    at_once = read(path)
    monkeypatch.setattr(ffmpeg_file, "_RESTART_SAMPLES", 50_000)
    np.testing.assert_allclose(read(path), at_once, atol=1e-6)


def test_only_what_lies_near_a_segment_of_an_m4a_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(ffmpeg_file, "_RESTART_SAMPLES", 50_000)
    path = encode(tmp_path / "a.m4a", np.tile(voice(3, 1, 16000), 30))
    n_decoded = []
    samples_of = ffmpeg_file._samples
    monkeypatch.setattr(
        ffmpeg_file, "_samples", lambda frame: n_decoded.append(frame.samples) or samples_of(frame)
    )
    read(path, start_s=27.0, end_s=28.0)
    assert sum(n_decoded) < 200_000


@ffmpeg_formats
def test_blocks_can_be_repeated(tmp_path, name):
    with AudioClip(encode(tmp_path / name, voice(3, 1, rate_of(name))), 0.2, 0.9) as clip:
        first, second = clip.read(16000), clip.read(16000)
    np.testing.assert_array_equal(first, second)


# Files whose header does not state their length


def test_an_mp4_in_fragments_is_read_to_its_end(tmp_path):
    samples = voice(3, 3, 16000)
    options = {"movflags": "empty_moov+frag_keyframe", "frag_duration": "500000"}
    with AudioClip(encode(tmp_path / "a.mp4", samples, rate_hz=16000, **options)) as clip:
        assert clip.end_s == pytest.approx(3.0, abs=2048 / 16000)
        assert len(clip.read(16000)) == round(clip.end_s * 16000)
        assert clip.warning is None


def test_a_webm_as_browsers_record_it_is_read_to_its_end(tmp_path):
    path = encode(tmp_path / "a.webm", voice(3, 1.5, 48000), live="1")
    with av.open(str(path)) as source:
        assert source.duration is None
    with AudioClip(path) as clip:
        assert clip.end_s == pytest.approx(1.5, abs=0.03)
        clip.read(16000)
        assert clip.warning is None


def test_a_short_file_is_decoded_once(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.webm", voice(3, 0.5, 48000))
    n_decoded = []
    samples_of = ffmpeg_file._samples
    monkeypatch.setattr(
        ffmpeg_file, "_samples", lambda frame: n_decoded.append(frame.samples) or samples_of(frame)
    )
    with AudioClip(path) as clip:
        assert len(clip.read(48000)) == sum(n_decoded)


# Videos, folders, what is not opened


@pytest.mark.parametrize("name", ["v.mp4", "v.mov", "v.mkv"])
def test_the_sound_of_a_video_is_read(tmp_path, name):
    samples = voice(3, 1, 16000)
    path = encode(tmp_path / name, samples, with_video=True)
    decoded = read(path)
    assert abs(len(decoded) - len(samples)) <= 2048
    np.testing.assert_array_equal(decoded, decode(path)[0, : len(decoded)])


@pytest.mark.parametrize("name", ["v.mp4", "v.mov", "v.mkv"])
def test_a_video_without_sound_is_an_error_that_says_so(tmp_path, name):
    path = encode_pictures_only(tmp_path / name)
    with pytest.raises(AudioFileError, match=rf"{name}: has no sound \(no audio track\)"):
        AudioClip(path)


def test_the_formats_are_found_in_folders(tmp_path):
    for name in FFMPEG_FORMATS:
        (tmp_path / name).touch()
    found = {os.path.basename(segment.file) for segment in find_segments([str(tmp_path)])}
    assert found == set(FFMPEG_FORMATS)
    assert ffmpeg_file.FFMPEG_SUFFIXES < AUDIO_SUFFIXES


def test_a_format_is_known_by_its_content(tmp_path):
    path = encode(tmp_path / "a.m4a", voice(3, 0.5))
    whole = read(path)
    np.testing.assert_array_equal(read(path.rename(tmp_path / "a.mp3")), whole)
    tagged = tmp_path / "tagged.aac"
    aac = encode(tmp_path / "a.aac", voice(3, 0.5))
    tagged.write_bytes(b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) + aac.read_bytes())
    np.testing.assert_array_equal(read(tagged), read(aac))


@pytest.mark.parametrize("suffix", [".m4a", ".mp4", ".aac", ".webm", ".wma"])
@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{secret}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
        "[Reference]\nRef1={secret}\n",
    ],
)
def test_playlists_are_not_followed(tmp_path, suffix, content):
    secret = encode(tmp_path / "secret.m4a", voice(3, 0.5))
    path = tmp_path / f"a{suffix}"
    path.write_text(content.format(secret=secret))
    with pytest.raises(AudioFileError, match="cannot be read as audio"):
        AudioClip(path)


@pytest.mark.parametrize("container_format", ["hls", "concat"])
def test_a_playlist_could_not_open_other_files(tmp_path, container_format):
    # Were a playlist taken for one of the formats, the files in it would still not be opened.
    secret = encode(tmp_path / "secret.m4a", voice(3, 0.5))
    path = tmp_path / "a.m4a"
    path.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"
        if container_format == "hls"
        else "ffconcat version 1.0\nfile 'secret.m4a'\n"
    )
    with pytest.raises(Exception, match=r"not opened|Invalid data|No such file"):
        ffmpeg_file.FfmpegFile(path, container_format)


@pytest.mark.parametrize(
    "name", ["concat:a.m4a|b.m4a", "http:a.m4a", "data:audio.m4a", "pipe:0.m4a", "-.m4a"]
)
def test_names_that_look_like_addresses_are_files(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = encode(tmp_path / "plain.m4a", voice(3, 0.5))
    whole = read(path)
    path.rename(tmp_path / name)
    np.testing.assert_array_equal(read(name), whole)


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.wma"])
def test_without_the_extra_the_error_says_what_to_install(tmp_path, monkeypatch, name):
    path = encode(tmp_path / name, voice(3, 0.5, rate_of(name)))
    monkeypatch.setitem(sys.modules, "av", None)
    suffix = name[1:]
    message = rf"{name}: reading \{suffix} files needs the package 'av'.*pip install 'serab-byols\[av\]'"
    with pytest.raises(AudioFileError, match=message):
        AudioClip(path)


# Damage


def overwrite(path, first, content):
    whole = bytearray(path.read_bytes())
    whole[first : first + len(content)] = content
    path.write_bytes(whole)


@pytest.mark.parametrize("name", ["a.m4a", "a.aac"])
def test_damage_in_the_middle_is_an_error_and_makes_no_noise(tmp_path, capfd, name):
    path = encode(tmp_path / name, voice(3, 3, rate_of(name)))
    overwrite(path, path.stat().st_size // 2, b"\xff" * 3000)
    with pytest.raises(AudioFileError, match=rf"{name}: cannot be read as audio"):
        read(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.m4a", "a.mka"])
def test_a_title_that_is_not_utf_8_is_no_damage(tmp_path, name):
    path = encode(tmp_path / name, voice(3, 0.5))
    whole = read(path)
    assert b"Lavf" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\xdc\xe9\xff\xfe"))
    np.testing.assert_array_equal(read(path), whole)


def test_a_rate_that_changes_is_an_error(tmp_path):
    path = encode(tmp_path / "a.aac", voice(3, 0.5))
    other = encode(tmp_path / "b.aac", voice(3, 0.5, 22050), container="adts", rate_hz=22050)
    path.write_bytes(path.read_bytes() + other.read_bytes())
    with pytest.raises(AudioFileError, match="changes from 16000 Hz and 1 channels to 22050 Hz and 1"):
        read(path)


def test_a_rate_that_is_no_audio_s_is_an_error(tmp_path):
    path = encode(tmp_path / "a.mka", voice(3, 0.5), codec="pcm_s16le", rate_hz=500)
    with pytest.raises(AudioFileError, match="states a sample rate of 500 Hz"):
        AudioClip(path)


def patched_table(path, box, at, value):
    """An m4a whose table of packets says something else; positions count from the name of the box."""
    encode(path, voice(3, 10), movflags="faststart")
    overwrite(path, path.read_bytes().index(box) + at, value.to_bytes(4, "big"))
    return path


def test_an_m4a_that_states_more_than_there_is(tmp_path):
    with AudioClip(patched_table(tmp_path / "a.m4a", b"stts", 16, 100_000)) as clip:
        assert clip.end_s == 10.0
        clip.read(16000)
        assert clip.warning == f"ends early: the header states 10 s, {clip.end_s:g} s are there"


@pytest.mark.parametrize(("box", "at"), [(b"stts", 8), (b"stsz", 8), (b"stsz", 12), (b"stsc", 8)])
def test_absurd_sizes_are_errors(tmp_path, box, at):
    with pytest.raises(AudioFileError, match=r"a\.m4a: "):
        read(patched_table(tmp_path / "a.m4a", box, at, 0x7FFFFFFF))


def test_a_gap_in_a_file_is_told(tmp_path):
    path = encode(tmp_path / "a.mka", voice(3, 6), cluster_time_limit="500")
    cluster = b"\x1f\x43\xb6\x75"
    overwrite(path, path.read_bytes().index(cluster, path.stat().st_size // 2), cluster[:3] + b"\x76")
    with AudioClip(path) as clip:
        n_samples = len(clip.read(16000))
        assert clip.warning is not None
        missing_s = float(re.match(r"has a gap: about (\S+) s are missing after", clip.warning)[1])
        assert n_samples / 16000 + missing_s == pytest.approx(6, abs=0.02)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\0\x18ftypmp42",
        b"\0\0\0\x18ftyp" + b"hello! " * 99,
        b"#!AMR\n",
        b"\x1a\x45\xdf\xa3",
        b"\xff\xf1" + bytes(300),
        bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(99),
    ],
)
def test_what_only_begins_like_a_format_is_an_error(tmp_path, content):
    path = tmp_path / "a.m4a"
    path.write_bytes(content)
    with pytest.raises(AudioFileError, match=r"a\.m4a: "):
        read(path)


def test_a_telephone_recording_in_wav_stays_with_libsndfile(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    soundfile.write(tmp_path / "a.wav", voice(3, 0.5, 8000), 8000, subtype="GSM610")
    assert len(read(tmp_path / "a.wav")) >= 4000
