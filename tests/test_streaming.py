"""Streaming gives the numbers of a waveform in memory."""

import numpy as np
import pytest
import torch
from parity_data import assert_close_to_peak, speech
from sounds import write

from serab_byols import embed_file, embed_files, get_scene_embeddings, get_timestamp_embeddings
from serab_byols.corpus import decode_ahead
from serab_byols.corpus.decoding import AudioClip
from serab_byols.corpus.embedding import embed_segments
from serab_byols.encoders import ENCODERS
from serab_byols.errors import AudioFileWarning
from serab_byols.frontend import create_frontend
from serab_byols.inference import scenes, streaming
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.inference.overlapping_frames import OverlappingFrames
from serab_byols.inference.streaming import stream_frames, stream_log_mel
from serab_byols.normalization import Statistics

FRONT = create_frontend("torch")


@pytest.mark.parametrize("n_samples", [1, 513, 2048, 2049, 3333, 20160])
@pytest.mark.parametrize("block", [7, 160, 4096, 100000])
def test_log_mel_in_blocks_equals_the_whole(n_samples, block):
    clip = speech(1, 20160)[:n_samples]
    parts = list(stream_log_mel(FRONT, clip.split(block), 1120))
    whole = FRONT(torch.nn.functional.pad(clip, (0, max(0, 1120 - n_samples)))[None])[0]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_samples", [1, 799, 800, 12345])
@pytest.mark.parametrize("block", [333, 100000])
@pytest.mark.parametrize(("frame_ms", "hop_ms"), [(1000, 50), (25, 10.03125), (100, 333.3)])
@pytest.mark.parametrize("at_once", [1, 5])
def test_frames_in_blocks_equal_cutting_the_padded_clip(n_samples, block, frame_ms, hop_ms, at_once):
    clip = torch.arange(1.0, n_samples + 1)
    grid = FrameGrid(frame_ms, hop_ms, 16000)
    padded = torch.nn.functional.pad(clip, (grid.pad_before_samples, grid.pad_after_samples))
    starts = grid.starts(0, grid.n_frames(n_samples))
    expected = [padded[start : start + grid.frame_samples] for start in starts]
    found = []
    for excerpt, firsts in stream_frames(clip.split(block), grid, at_once):
        assert len(firsts) <= at_once
        found += [excerpt[first : first + grid.frame_samples] for first in firsts]
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


@pytest.mark.parametrize("frame_samples", [200, 513, 1120, 6081, 16000])
@pytest.mark.parametrize("hop", [1, 77, 160])
def test_shared_columns_equal_cutting_frames_first(frame_samples, hop):
    excerpt = speech(2, frame_samples + 6 * hop)
    starts = torch.arange(6) * hop
    frames = torch.stack([excerpt[start : start + frame_samples] for start in starts])
    frames = torch.nn.functional.pad(frames, (0, max(0, 513 - frame_samples)))
    batch = OverlappingFrames(FRONT, excerpt, starts, frame_samples, 513, Statistics(-6.0, 5.0))
    torch.testing.assert_close(batch.log_mels(), (FRONT(frames) + 6) / 5, rtol=0, atol=2e-5)


@pytest.fixture
def recording(tmp_path):
    """3.1 s at 44.1 kHz, stereo."""
    left = speech(4, 136710).numpy()
    return write(tmp_path / "long.mp3", np.stack([left, left[::-1] / 2], axis=1), 44100)


@pytest.fixture
def stream_files(monkeypatch):
    """A function; once it is called, all files are streamed, in small blocks and few frames at a time."""

    def start():
        monkeypatch.setattr(decode_ahead, "STREAM_S", 0.0)
        monkeypatch.setattr("serab_byols.corpus.decoding._BLOCK_SAMPLES", 4096)
        monkeypatch.setattr("serab_byols.inference.timestamps._COLUMNS_AT_ONCE", 400)

    return start


scenes_and_frames = pytest.mark.parametrize("timestamps", [False, True])
both_statistics = pytest.mark.parametrize("normalization", ["clip", (-6.0, 5.0)])
FRAMES = {"timestamps": True, "frame_duration": 300, "hop_size": 70}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, options) for name in ENCODERS for options in ({"start": 0.5}, FRAMES)),
        ("default", {**FRAMES, "start": 0.25, "end": 2.5}),
        ("default", {**FRAMES, "dense": True}),
        ("resnetish34", {**FRAMES, "dense": True}),
    ],
)
@both_statistics
def test_streamed_files_equal_files_in_memory(recording, narrow, stream_files, name, normalization, options):
    model = narrow(name, normalization=normalization)
    in_memory = embed_file(recording, model, **options)
    stream_files()
    streamed = embed_file(recording, model, **options)
    assert_close_to_peak(torch.from_numpy(streamed.embedding), torch.from_numpy(in_memory.embedding))
    for column in ("file", "start", "end", "time"):
        np.testing.assert_array_equal(getattr(streamed, column), getattr(in_memory, column))


@scenes_and_frames
@both_statistics
def test_a_damaged_recording_leaves_no_rows_when_streamed(
    tmp_path, narrow, stream_files, timestamps, normalization
):
    samples = speech(1, 64000).numpy()
    good = write(tmp_path / "good.wav", samples)
    samples[60000] = np.nan
    damaged = write(tmp_path / "damaged.wav", samples, subtype="FLOAT")
    stream_files()
    errors = []
    records = embed_files(
        [good, damaged, good],
        narrow(normalization=normalization),
        timestamps=timestamps,
        hop_size=200,
        on_error=lambda segment, error: errors.append((segment.path, str(error))),
    )
    assert [record.file for record in records] == [str(good), str(good)]
    assert errors == [(str(damaged), f"{damaged}: holds samples that are NaN, infinite or beyond 1e+12")]


@scenes_and_frames
@both_statistics
@pytest.mark.parametrize("stream", [False, True])
def test_a_record_of_a_truncated_file_ends_at_its_last_sample(
    recording, narrow, stream_files, stream, timestamps, normalization
):
    recording.write_bytes(recording.read_bytes()[: recording.stat().st_size // 2])
    with AudioClip(recording) as clip:
        duration_s = len(clip.read(44100)) / 44100
    assert duration_s < 2.0
    if stream:
        stream_files()
    with pytest.warns(AudioFileWarning, match="ends early.*; embedded as far as it goes"):
        record = embed_file(recording, narrow(normalization=normalization), timestamps=timestamps)
    assert np.max(record.end) == duration_s


def test_long_clips_in_memory_go_through_in_blocks(narrow, monkeypatch):
    model, clips = narrow(), torch.stack([speech(1, 40000), speech(2, 40000)])
    expected = get_scene_embeddings(clips, model)
    frames, _ = get_timestamp_embeddings(clips, model, 500, 250)
    for module in (streaming, scenes):
        monkeypatch.setattr(module, "BLOCK_SAMPLES", 9000)
    assert_close_to_peak(get_scene_embeddings(clips, model), expected)
    assert_close_to_peak(get_timestamp_embeddings(clips, model, 500, 250)[0], frames)


def test_short_and_long_files_keep_their_order(tmp_path, narrow, monkeypatch):
    monkeypatch.setattr(decode_ahead, "STREAM_S", 0.3)
    lengths = enumerate([3000, 9000, 3000, 3000, 9000])
    paths = [write(tmp_path / f"{i}.wav", speech(i, n_samples).numpy()) for i, n_samples in lengths]
    assert [record.file for record in embed_files(paths, narrow())] == [str(path) for path in paths]


def test_gradients_stay_on_between_records(recording, narrow, stream_files):
    stream_files()
    model, paths = narrow(), [recording, recording]
    for records in (
        embed_files(paths, model),
        embed_files(paths, model, timestamps=True),
        embed_segments(paths, model, FrameGrid(1000, 50, 16000)),
    ):
        assert all(torch.is_grad_enabled() for _ in records)
