"""Paths in, records out: embeddings of files, segments and arrays at any rate."""

import itertools
import threading

import numpy as np
import pytest
import soundfile
import torch
from sounds import FORMATS, LOSSLESS, LOSSY, not_utf8_folder, voice, write

import serab_byols
from serab_byols import (
    Record,
    SerabByolsError,
    embed_audio,
    embed_file,
    embed_files,
    get_scene_embeddings,
    get_timestamp_embeddings,
)
from serab_byols.corpus import embedding as embed
from serab_byols.corpus.decoding import AudioClip
from serab_byols.corpus.segments import Segment
from serab_byols.errors import AudioFileError, InvalidInputError

pytestmark = pytest.mark.usefixtures("one_thread")

RATE_HZ = 16000


def assert_same(embedding, expected):
    """Equal but for the order of sums; embeddings of different sounds differ by 1e-2 and more."""
    np.testing.assert_allclose(embedding, expected, rtol=1e-5, atol=1e-6)


def assert_different(embedding, other):
    assert np.abs(np.asarray(embedding) - np.asarray(other)).max() > 5e-3


def model_with(tiny_model, normalization):
    """Another model with the same weights."""
    return serab_byols.ByolsModel(tiny_model.encoder, tiny_model.frontend, normalization=normalization).eval()


@pytest.fixture
def clips(tmp_path):
    """Five different clips of different lengths, rates and channel counts."""
    return [
        write(tmp_path / "0.wav", voice(0)),
        write(tmp_path / "1.flac", voice(1, 0.7, 44100), 44100),
        write(tmp_path / "2.wav", np.stack([voice(2), voice(3)], axis=1)),
        write(tmp_path / "3.aiff", voice(4, 0.4, 8000), 8000),
        write(tmp_path / "4.wav", voice(5)),
    ]


# Records


def test_a_record_of_a_file(tmp_path, tiny_model):
    path = write(tmp_path / "a.wav", voice(0, 0.75, 8000), 8000)
    record = embed_file(path, tiny_model)
    assert isinstance(record, Record)
    assert (record.file, record.start, record.end, record.time) == (str(path), 0.0, 0.75, None)
    assert record.embedding.dtype == np.float32
    assert record.embedding.shape == (tiny_model.scene_embedding_size,)
    assert np.isfinite(record.embedding).all()
    assert record.embedding.std() > 0.01


def test_the_name_is_kept_as_given(tmp_path, tiny_model, monkeypatch):
    write(tmp_path / "a.wav", voice())
    monkeypatch.chdir(tmp_path)
    assert embed_file("./a.wav", tiny_model).file == "./a.wav"
    assert [record.file for record in embed_files(["a.wav", "./a.wav"], tiny_model)] == ["a.wav", "./a.wav"]


def test_a_file_is_embedded_as_its_samples_are(tmp_path, tiny_model):
    samples = voice()
    record = embed_file(write(tmp_path / "a.wav", samples, subtype="FLOAT"), tiny_model)
    assert_same(record.embedding, get_scene_embeddings(samples[None], tiny_model)[0])
    assert_different(record.embedding, get_scene_embeddings(voice(1)[None], tiny_model)[0])


def test_a_clip_of_one_sample_has_an_embedding(tmp_path, tiny_model):
    record = embed_file(write(tmp_path / "a.wav", voice()[100:101]), tiny_model)
    assert np.isfinite(record.embedding).all()
    assert record.end == 1 / RATE_HZ


# What does not change an embedding


def test_lossless_formats_give_equal_embeddings(tmp_path, tiny_model):
    pcm = (voice(1, 0.5, 44100) * 32767).astype(np.int16)  # encoders differ in how they round floats
    embeddings = [
        embed_file(write(tmp_path / name, pcm, 44100, **options), tiny_model).embedding
        for name, options in LOSSLESS.items()
    ]
    for embedding in embeddings[1:]:
        np.testing.assert_array_equal(embedding, embeddings[0])


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_formats_give_close_embeddings(tmp_path, tiny_model, name):
    samples = voice(1, 1, 48000)
    original = embed_file(write(tmp_path / "a.wav", samples, 48000), tiny_model).embedding
    lossy = embed_file(write(tmp_path / name, samples, 48000, **LOSSY[name]), tiny_model).embedding
    cosine = original @ lossy / np.linalg.norm(original) / np.linalg.norm(lossy)
    assert cosine > 0.999
    # Random weights put all speech close together, so closeness is measured by other voices.
    others = get_scene_embeddings([voice(seed, 1) for seed in range(2, 8)], tiny_model).numpy()
    nearest = np.linalg.norm(others - original, axis=1).min()
    assert np.linalg.norm(lossy - original) < nearest / 2


@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100, 48000, 96000])
def test_the_sample_rate_hardly_changes_an_embedding(tmp_path, tiny_model, rate_hz):
    at_16_khz = embed_file(write(tmp_path / "a.wav", voice(1), subtype="FLOAT"), tiny_model)
    path = write(tmp_path / "b.wav", voice(1, 0.5, rate_hz), rate_hz, subtype="FLOAT")
    record = embed_file(path, tiny_model)
    # The log of the silent bands differs: below -80 dB it shows what each filter leaves there.
    assert np.linalg.norm(record.embedding - at_16_khz.embedding) < 0.02
    assert record.end == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("n_channels", [2, 3, 6])
def test_channel_duplication_does_not_change_an_embedding(tmp_path, tiny_model, n_channels):
    samples = voice(1, 0.5, 44100)
    mono = write(tmp_path / "mono.wav", samples, 44100)
    many = write(tmp_path / "many.wav", np.stack([samples] * n_channels, axis=1), 44100)
    assert_same(embed_file(many, tiny_model).embedding, embed_file(mono, tiny_model).embedding)


def test_order_and_number_of_files_do_not_change_an_embedding(clips, tiny_model):
    alone = {path: embed_file(path, tiny_model) for path in clips}
    for paths in (clips, clips[::-1], clips[1:4], clips[:1] * 3 + clips):
        records = list(embed_files(paths, tiny_model))
        assert [record.file for record in records] == [str(path) for path in paths]
        for path, record in zip(paths, records):
            assert_same(record.embedding, alone[path].embedding)
            assert (record.start, record.end) == (alone[path].start, alone[path].end)
    assert_different(alone[clips[0]].embedding, alone[clips[4]].embedding)


@pytest.mark.parametrize(("clips_ahead", "batch_s"), [(1, 300.0), (2, 300.0), (64, 0.1), (64, 1.0)])
def test_how_clips_are_grouped_does_not_change_the_records(
    clips, tiny_model, monkeypatch, clips_ahead, batch_s
):
    expected = list(embed_files(clips, tiny_model))
    monkeypatch.setattr(embed, "N_CLIPS_AHEAD", clips_ahead)
    monkeypatch.setattr(embed, "_BATCH_S", batch_s)
    records = list(embed_files(clips, tiny_model))
    assert [record.file for record in records] == [record.file for record in expected]
    for record, other in zip(records, expected):
        assert_same(record.embedding, other.embedding)


@pytest.mark.parametrize("timestamps", [False, True])
def test_bad_files_are_passed_over_and_change_nothing_else(tmp_path, clips, tiny_model, timestamps):
    (tmp_path / "text.wav").write_text("not audio")
    bad = [tmp_path / "missing.wav", tmp_path / "text.wav", tmp_path]
    paths = [bad[0], clips[0], clips[1], bad[1], *clips[2:], bad[2]]
    errors = []
    records = list(
        embed_files(paths, tiny_model, timestamps=timestamps, on_error=lambda *error: errors.append(error))
    )
    assert [segment.path for segment, _ in errors] == bad
    assert all(isinstance(error, AudioFileError) for _, error in errors)
    expected = list(embed_files(clips, tiny_model, timestamps=timestamps))
    assert [record.file for record in records] == [record.file for record in expected]
    for record, other in zip(records, expected):
        assert_same(record.embedding, other.embedding)


# Arrays


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, np.asarray) for name in FORMATS), ("a.wav", torch.from_numpy)],
)
def test_an_array_is_embedded_as_its_file(tmp_path, tiny_model, name, kind):
    rate_hz = 48000 if name == "a.opus" else 44100
    stereo = np.stack([voice(1, 2, rate_hz), voice(2, 2, rate_hz)], axis=1)
    path = write(tmp_path / name, stereo, rate_hz, **FORMATS[name])
    samples, rate_hz = soundfile.read(path, dtype="float32")
    embedding = embed_audio(kind(np.ascontiguousarray(samples.T)), rate_hz, tiny_model)
    assert isinstance(embedding, torch.Tensor)
    assert embedding.dtype == torch.float32
    np.testing.assert_array_equal(embedding.numpy(), embed_file(path, tiny_model).embedding)


@pytest.mark.parametrize(
    ("samples", "rate_hz", "message"),
    [
        (np.zeros(100, np.int16), 16000, "divide 16-bit integers by 32768"),
        (np.zeros(0, np.float32), 16000, "not be empty"),
        (np.zeros(100, np.float32), 0, "positive number of Hz"),
        (np.full(100, np.nan, np.float32), 16000, "not finite"),
    ],
)
def test_impossible_arrays_are_refused(tiny_model, samples, rate_hz, message):
    with pytest.raises(InvalidInputError, match=message):
        embed_audio(samples, rate_hz, tiny_model)


# Segments


@pytest.mark.parametrize("timestamps", [False, True])
def test_a_segment_is_embedded_as_the_file_cut_there(tmp_path, tiny_model, timestamps):
    samples = voice(1, 2)
    whole = write(tmp_path / "whole.wav", samples)
    cut = write(tmp_path / "cut.wav", samples[12000:28000])
    segment = embed_file(whole, tiny_model, start=0.75, end=1.75, timestamps=timestamps)
    expected = embed_file(cut, tiny_model, timestamps=timestamps)
    np.testing.assert_array_equal(segment.embedding, expected.embedding)
    np.testing.assert_allclose(segment.start, np.asarray(expected.start) + 0.75, rtol=0, atol=1e-12)
    np.testing.assert_allclose(segment.end, np.asarray(expected.end) + 0.75, rtol=0, atol=1e-12)
    if timestamps:
        np.testing.assert_allclose(segment.time, expected.time + 0.75, rtol=0, atol=1e-12)
    else:
        assert_different(segment.embedding, embed_file(whole, tiny_model).embedding)


def test_segments_of_one_file_are_records_of_their_own(tmp_path, tiny_model):
    path = write(tmp_path / "a.wav", voice(1, 1))
    parts = [Segment("a", path, 0.0, 0.4), Segment("a", path, 0.5), Segment("a", path, None, 9.0)]
    records = list(embed_files(parts, tiny_model))
    assert [(record.file, record.start, record.end) for record in records] == [
        ("a", 0.0, 0.4),
        ("a", 0.5, 1.0),
        ("a", 0.0, 1.0),
    ]
    assert_different(records[0].embedding, records[1].embedding)


@pytest.mark.parametrize("segment", [{"start": 2.0}, {"start": -1.0}, {"start": 0.4, "end": 0.3}])
def test_a_segment_outside_of_the_file_is_an_error(tmp_path, tiny_model, segment):
    path = write(tmp_path / "a.wav", voice())
    with pytest.raises(AudioFileError, match=r"empty or outside of the file's 0\.5 s"):
        embed_file(path, tiny_model, **segment)


# Frames


@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_frames_are_those_of_the_timestamp_embeddings(tmp_path, tiny_model, rate_hz):
    path = write(tmp_path / "a.wav", voice(1, 0.62, rate_hz), rate_hz)
    record = embed_file(path, tiny_model, timestamps=True, frame_duration=200, hop_size=50)
    samples, _ = soundfile.read(path, dtype="float32")
    mono = serab_byols.corpus.decoding.resample_array(samples, rate_hz, RATE_HZ)
    frames, times_ms = get_timestamp_embeddings(mono[None], tiny_model, 200, 50)
    assert_same(record.embedding, frames[0])
    assert record.embedding.dtype == np.float32
    np.testing.assert_allclose(record.time, times_ms[0].double() / 1000, rtol=0, atol=1e-7)


def test_a_frame_s_window_is_cut_to_the_clip(tmp_path, tiny_model):
    path = write(tmp_path / "a.wav", voice(1, 0.62))
    record = embed_file(path, tiny_model, timestamps=True, frame_duration=200, hop_size=50)
    centre = np.arange(13) * 0.05
    np.testing.assert_allclose(record.time, centre, rtol=0, atol=1e-12)
    np.testing.assert_allclose(record.start, np.maximum(centre - 0.1, 0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(record.end, np.minimum(centre + 0.1, 0.62), rtol=0, atol=1e-12)
    assert (record.start.dtype, record.end.dtype, record.time.dtype) == (np.dtype("f8"),) * 3


def test_a_segment_s_windows_are_cut_to_the_segment(tmp_path, tiny_model):
    path = write(tmp_path / "a.wav", voice(1, 1))
    record = embed_file(path, tiny_model, start=0.2, end=0.5, timestamps=True, frame_duration=200)
    assert record.start.min() == 0.2
    assert record.end.max() == 0.5
    np.testing.assert_allclose(record.time, 0.2 + np.arange(7) * 0.05, rtol=0, atol=1e-12)


@pytest.mark.parametrize("frame", [{"frame_duration": 0.0}, {"hop_size": -5.0}, {"hop_size": float("nan")}])
def test_an_impossible_frame_is_refused_before_any_work(tiny_model, frame):
    with pytest.raises(InvalidInputError, match=f"{next(iter(frame))} must be a finite number"):
        embed_files(["missing.wav"], tiny_model, timestamps=True, **frame)


# Normalisation


@pytest.mark.parametrize("rule", ["batch", "hear2021"])
def test_rules_that_share_statistics_are_refused_before_any_work(tmp_path, tiny_model, rule):
    model = model_with(tiny_model, rule)
    message = f"'{rule}' shares statistics between the clips.*no meaning for a corpus"
    with pytest.raises(InvalidInputError, match=message):
        embed_files(["missing.wav"], model)
    with pytest.raises(InvalidInputError, match=message):
        embed_file(write(tmp_path / "a.wav", voice()), model)


def test_fixed_statistics_are_used(tmp_path, tiny_model):
    path = write(tmp_path / "a.wav", voice(), subtype="FLOAT")
    model = model_with(tiny_model, (-6.0, 5.0))
    embedding = embed_file(path, model).embedding
    assert_same(embedding, get_scene_embeddings(voice()[None], model)[0])
    assert_different(embedding, embed_file(path, tiny_model).embedding)


# Long recordings, which are streamed


@pytest.fixture
def streamed(monkeypatch):
    """Turns on the streaming of everything, in small parts; tests call it when they have the other result."""

    def turn_on():
        monkeypatch.setattr("serab_byols.corpus.decode_ahead.STREAM_S", 0.0)
        monkeypatch.setattr("serab_byols.corpus.decoding._BLOCK_SAMPLES", 5000)
        monkeypatch.setattr("serab_byols.inference.timestamps._COLUMNS_AT_ONCE", 100)

    return turn_on


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("normalization", ["clip", (-6.0, 5.0)])
@pytest.mark.parametrize("segment", [{}, {"start": 0.25, "end": 1.5}])
def test_streaming_does_not_change_a_record(
    tmp_path, tiny_model, streamed, timestamps, normalization, segment
):
    model = model_with(tiny_model, normalization)
    path = write(tmp_path / "a.mp3", np.stack([voice(1, 2, 44100), voice(2, 2, 44100)], axis=1), 44100)
    options = {"timestamps": timestamps, "frame_duration": 300, "hop_size": 70, **segment}
    expected = embed_file(path, model, **options)
    streamed()
    record = embed_file(path, model, **options)
    assert record.file == expected.file
    np.testing.assert_array_equal(record.start, expected.start)
    np.testing.assert_array_equal(record.end, expected.end)
    if timestamps:
        np.testing.assert_array_equal(record.time, expected.time)
    np.testing.assert_allclose(record.embedding, expected.embedding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("normalization", ["clip", (-6.0, 5.0)])
def test_a_damaged_recording_leaves_no_rows_when_streamed(
    tmp_path, clips, tiny_model, streamed, timestamps, normalization
):
    samples = voice(1, 2)
    samples[-10] = np.nan
    damaged = write(tmp_path / "damaged.wav", samples, subtype="FLOAT")
    streamed()
    errors = []
    records = embed_files(
        [clips[0], damaged, clips[1]],
        model_with(tiny_model, normalization),
        timestamps=timestamps,
        on_error=lambda segment, error: errors.append((segment.path, str(error))),
    )
    assert [record.file for record in records] == [str(clips[0]), str(clips[1])]
    assert errors == [(damaged, f"{damaged}: holds samples that are NaN, infinite or beyond 1e+12")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("normalization", ["clip", (-6.0, 5.0)])
def test_a_truncated_file_ends_where_its_samples_do(
    tmp_path, tiny_model, streamed, stream, timestamps, normalization
):
    path = write(tmp_path / "a.mp3", voice(1, 2, 44100), 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with AudioClip(path) as clip:
        duration_s = len(clip.read(44100)) / 44100
    assert duration_s < 1.5
    if stream:
        streamed()
    record = embed_file(path, model_with(tiny_model, normalization), timestamps=timestamps)
    assert np.max(record.end) == duration_s


# Errors and the running ahead


def test_without_a_handler_the_error_is_raised(tmp_path, clips, tiny_model):
    with pytest.raises(AudioFileError, match=r"missing\.wav: no such file"):
        list(embed_files([clips[0], tmp_path / "missing.wav"], tiny_model))
    with pytest.raises(AudioFileError, match=r"missing\.wav: no such file"):
        embed_file(tmp_path / "missing.wav", tiny_model)


def test_an_audio_error_is_both_an_os_error_and_of_the_family():
    assert issubclass(AudioFileError, OSError)
    assert issubclass(AudioFileError, SerabByolsError)


def test_one_path_instead_of_a_list_is_refused(tmp_path, tiny_model):
    for path in ("a.wav", tmp_path / "a.wav"):
        with pytest.raises(InvalidInputError, match=r"takes a list of paths, got .*a\.wav"):
            embed_files(path, tiny_model)


def test_a_name_that_is_not_utf8_is_an_error_but_its_folder_may_be(tmp_path, tiny_model):
    path = write(tmp_path / "a.wav", voice())
    moved = path.rename(not_utf8_folder(tmp_path) / "a.wav")
    errors = []
    segments = [moved, Segment("a.wav", moved)]
    (record,) = embed_files(segments, tiny_model, on_error=lambda *error: errors.append(error))
    assert record.file == "a.wav"
    ((segment, error),) = errors
    assert segment.path == moved
    assert "not valid UTF-8" in str(error)


def test_no_files_are_no_records(tiny_model):
    assert list(embed_files([], tiny_model)) == []


def test_paths_may_be_endless_and_stopping_leaves_no_threads(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(embed, "N_CLIPS_AHEAD", 2)
    path = write(tmp_path / "a.wav", voice(0, 0.1))
    records = embed_files(itertools.repeat(path), tiny_model)
    assert len(list(itertools.islice(records, 5))) == 5
    records.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
