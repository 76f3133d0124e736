"""Paths in, records out: embeddings of files, segments and arrays at any rate."""

import itertools
import subprocess
import sys
import threading
import time

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
from serab_byols.corpus import embedding
from serab_byols.corpus.decoding import resample_array
from serab_byols.corpus.embedding import embed_segments
from serab_byols.corpus.segments import Segment
from serab_byols.errors import AudioFileError, InvalidInputError
from serab_byols.inference.frame_grid import FrameGrid

pytestmark = pytest.mark.usefixtures("one_thread")

RATE_HZ = 16000
scenes_and_frames = pytest.mark.parametrize("timestamps", [False, True])


def assert_same(actual, expected):
    """Equal but for the order of sums; embeddings of different sounds differ by 1e-2 and more."""
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def assert_decoding_threads_end():
    """Nobody waits for them, see :func:`decode_ahead`: they end with what they are doing."""
    for _ in range(100):
        if not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]:
            return
        time.sleep(0.05)
    pytest.fail("threads are left")


def assert_different(actual, other):
    assert np.abs(np.asarray(actual) - np.asarray(other)).max() > 5e-3


def assert_same_records(records, expected):
    assert [record.file for record in records] == [record.file for record in expected]
    for record, other in zip(records, expected):
        assert_same(record.embedding, other.embedding)
        np.testing.assert_array_equal((record.start, record.end), (other.start, other.end))


def model_with(tiny_model, normalization):
    """Another model with the same weights."""
    return serab_byols.ByolsModel(tiny_model.encoder, tiny_model.frontend, normalization=normalization).eval()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Five different clips of different lengths, rates and channel counts."""
    folder = tmp_path_factory.mktemp("clips")
    return [
        write(folder / "0.wav", voice(0)),
        write(folder / "1.flac", voice(1, 0.7, 44100), 44100),
        write(folder / "2.wav", np.stack([voice(2), voice(3)], axis=1)),
        write(folder / "3.aiff", voice(4, 0.4, 8000), 8000),
        write(folder / "4.wav", voice(5)),
    ]


# Records


@pytest.mark.parametrize("normalization", ["clip", (-6.0, 5.0)])
def test_a_record_of_a_file(tmp_path, tiny_model, monkeypatch, normalization):
    model = model_with(tiny_model, normalization)
    samples = voice(0, 0.75)
    write(tmp_path / "a.wav", samples, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    record = embed_file("./a.wav", model)
    assert isinstance(record, Record)
    assert (record.file, record.start, record.end, record.time) == ("./a.wav", 0.0, 0.75, None)
    assert record.embedding.dtype == np.float32
    assert record.embedding.shape == (model.scene_embedding_size,)
    assert_same(record.embedding, get_scene_embeddings(samples[None], model)[0])
    assert_different(record.embedding, get_scene_embeddings(voice(1)[None], model)[0])


def test_a_clip_of_one_sample_has_an_embedding(tmp_path, tiny_model):
    record = embed_file(write(tmp_path / "a.wav", voice()[100:101]), tiny_model)
    assert np.isfinite(record.embedding).all()
    assert record.end == 1 / RATE_HZ


# What does not change an embedding


def test_lossless_formats_give_equal_embeddings(tmp_path, tiny_model):
    pcm = (voice(1, 0.5, 44100) * 32767).astype(np.int16)  # encoders differ in how they round floats
    first, *others = (
        embed_file(write(tmp_path / name, pcm, 44100, **options), tiny_model).embedding
        for name, options in LOSSLESS.items()
    )
    for other in others:
        np.testing.assert_array_equal(other, first)


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


def test_order_and_number_of_files_do_not_change_a_record(clips, tiny_model):
    alone = {path: embed_file(path, tiny_model) for path in clips}
    for paths in (clips, [], clips[::-1], clips[1:4], clips[:1] * 3 + clips):
        assert_same_records(list(embed_files(paths, tiny_model)), [alone[path] for path in paths])
    assert_different(alone[clips[0]].embedding, alone[clips[4]].embedding)


@pytest.mark.parametrize(("clips_ahead", "batch_s"), [(1, 300.0), (2, 300.0), (64, 0.1), (64, 1.0)])
def test_batches_do_not_change_a_record(clips, tiny_model, monkeypatch, clips_ahead, batch_s):
    expected = list(embed_files(clips, tiny_model))
    monkeypatch.setattr(embedding, "N_CLIPS_AHEAD", clips_ahead)
    monkeypatch.setattr(embedding, "_BATCH_S", batch_s)
    assert_same_records(list(embed_files(clips, tiny_model)), expected)


@scenes_and_frames
def test_bad_files_are_skipped_and_change_no_other_record(tmp_path, clips, tiny_model, timestamps):
    (tmp_path / "text.wav").write_text("not audio")
    bad = [tmp_path / "missing.wav", tmp_path / "text.wav", tmp_path]
    paths = [bad[0], clips[0], clips[1], bad[1], *clips[2:], bad[2]]
    errors = []
    records = list(
        embed_files(paths, tiny_model, timestamps=timestamps, on_error=lambda *error: errors.append(error))
    )
    assert [segment.path for segment, _ in errors] == list(map(str, bad))
    assert all(isinstance(error, AudioFileError) for _, error in errors)
    for record, path in zip(records, clips, strict=True):
        expected = embed_file(path, tiny_model, timestamps=timestamps)
        assert record.file == expected.file
        assert_same(record.embedding, expected.embedding)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.wav", torch.from_numpy), ("a.opus", np.asarray), ("a.mp3", np.asarray)]
)
def test_an_array_is_embedded_as_its_file(tmp_path, tiny_model, name, kind):
    stereo = np.stack([voice(1, 2, 48000), voice(2, 2, 48000)], axis=1)
    path = write(tmp_path / name, stereo, 48000, **FORMATS[name])
    samples, rate_hz = soundfile.read(path, dtype="float32")
    actual = embed_audio(kind(np.ascontiguousarray(samples.T)), rate_hz, tiny_model)
    assert isinstance(actual, torch.Tensor)
    assert actual.dtype == torch.float32
    np.testing.assert_array_equal(actual.numpy(), embed_file(path, tiny_model).embedding)


# Segments


@scenes_and_frames
def test_a_segment_is_embedded_as_the_file_cut_there(tmp_path, tiny_model, timestamps):
    samples = voice(1, 2)
    whole = write(tmp_path / "whole.wav", samples)
    cut = write(tmp_path / "cut.wav", samples[12000:28000])
    segment = embed_file(whole, tiny_model, start=0.75, end=1.75, timestamps=timestamps)
    expected = embed_file(cut, tiny_model, timestamps=timestamps)
    np.testing.assert_array_equal(segment.embedding, expected.embedding)
    for name in ("start", "end", *["time"] * timestamps):
        shifted = np.asarray(getattr(expected, name)) + 0.75
        np.testing.assert_allclose(getattr(segment, name), shifted, rtol=0, atol=1e-12)


def test_segments_of_one_file_are_separate_records(tmp_path, tiny_model):
    path = write(tmp_path / "a.wav", voice(1, 1))
    segments = [Segment("a", path, 0.0, 0.4), Segment("a", path, 0.5), Segment("a", path, None, 9.0)]
    records = list(embed_files(segments, tiny_model))
    bounds = [(record.file, record.start, record.end) for record in records]
    assert bounds == [("a", 0.0, 0.4), ("a", 0.5, 1.0), ("a", 0.0, 1.0)]
    for record, other in itertools.combinations(records, 2):
        assert_different(record.embedding, other.embedding)


# Frames


@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_frames_are_those_of_the_timestamp_embeddings(tmp_path, tiny_model, rate_hz):
    path = write(tmp_path / "a.wav", voice(1, 0.62, rate_hz), rate_hz)
    record = embed_file(path, tiny_model, timestamps=True, frame_duration=200, hop_size=50)
    samples, _ = soundfile.read(path, dtype="float32")
    mono = resample_array(samples, rate_hz, RATE_HZ)
    frames, times_ms = get_timestamp_embeddings(mono[None], tiny_model, 200, 50)
    assert_same(record.embedding, frames[0])
    assert record.embedding.dtype == np.float32
    np.testing.assert_allclose(record.time, times_ms[0].double() / 1000, rtol=0, atol=1e-7)


@pytest.mark.parametrize("first_s", [0.0, 0.2])
def test_the_bounds_of_a_frame_are_clipped_to_the_segment(tmp_path, tiny_model, first_s):
    path = write(tmp_path / "a.wav", voice(1, 1))
    last_s = first_s + 0.62
    record = embed_file(
        path, tiny_model, start=first_s, end=last_s, timestamps=True, frame_duration=200, hop_size=50
    )
    centre_s = first_s + np.arange(13) * 0.05
    np.testing.assert_allclose(record.time, centre_s, rtol=0, atol=1e-12)
    np.testing.assert_allclose(record.start, np.maximum(centre_s - 0.1, first_s), rtol=0, atol=1e-12)
    np.testing.assert_allclose(record.end, np.minimum(centre_s + 0.1, last_s), rtol=0, atol=1e-12)
    assert (record.start.dtype, record.end.dtype, record.time.dtype) == (np.dtype("f8"),) * 3


# Errors


def test_without_a_handler_the_error_is_raised(tmp_path, tiny_model):
    assert issubclass(AudioFileError, OSError)
    assert issubclass(AudioFileError, SerabByolsError)
    with pytest.raises(AudioFileError, match=r"missing\.wav: no such file"):
        embed_file(tmp_path / "missing.wav", tiny_model)


def test_wrong_arguments_are_refused_at_the_call(tmp_path, tiny_model):
    for path in ("a.wav", tmp_path / "a.wav"):
        with pytest.raises(InvalidInputError, match=r"takes a list of paths, got .*a\.wav"):
            embed_files(path, tiny_model)
    for name in ("frame_duration", "hop_size"):
        with pytest.raises(InvalidInputError, match=f"{name} must be a finite number"):
            embed_files(["missing.wav"], tiny_model, timestamps=True, **{name: 0.0})
    for rule in ("batch", "hear2021"):
        message = f"'{rule}' shares statistics between the clips.*no meaning for a corpus"
        with pytest.raises(InvalidInputError, match=message):
            embed_files(["missing.wav"], model_with(tiny_model, rule))


def test_a_name_that_is_not_utf8_is_an_error_but_its_folder_may_be(tmp_path, tiny_model):
    path = write(tmp_path / "a.wav", voice())
    moved = path.rename(not_utf8_folder(tmp_path) / "a.wav")
    errors = []
    segments = [moved, Segment("a.wav", moved)]
    (record,) = embed_files(segments, tiny_model, on_error=lambda *error: errors.append(error))
    assert record.file == "a.wav"
    ((segment, error),) = errors
    assert segment.path == str(moved)
    assert "not valid UTF-8" in str(error)


def test_paths_may_be_endless_and_stopping_leaves_no_threads(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(embedding, "N_CLIPS_AHEAD", 2)
    path = write(tmp_path / "a.wav", voice(0, 0.1))
    records = embed_files(itertools.repeat(path), tiny_model)
    assert len(list(itertools.islice(records, 5))) == 5
    records.close()
    assert_decoding_threads_end()


ABANDONED = """
import concurrent.futures, gc, sys, threading
from serab_byols import create_model, embed_files
model = create_model("default", d=8)
iterator = embed_files([sys.argv[1]] * 200, model)
next(iterator)
cycle = [iterator]
cycle.append(cycle)
del iterator, cycle
with threading._shutdown_locks_lock if len(sys.argv) > 2 else concurrent.futures.thread._global_shutdown_lock:
    gc.collect()
print("collected")
"""
"""Collects an iterator that was not read to its end, while locks of starting and ending threads are held."""


def test_an_abandoned_iterator_may_be_collected_at_any_moment(clips):
    for held in ([], ["threads"] if hasattr(threading, "_shutdown_locks_lock") else []):
        command = [sys.executable, "-c", ABANDONED, str(clips[0]), *held]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == "collected\n"


def test_an_abandoned_recording_is_closed_and_its_threads_end(tmp_path, tiny_model):
    long = write(tmp_path / "long.wav", np.tile(voice(1, 1.0), 200))
    for _ in range(3):
        next(embed_segments([long, long], tiny_model, FrameGrid(1000, 100, tiny_model.sample_rate)))
    assert_decoding_threads_end()
