"""Frame starts and timestamps: exact."""

import numpy as np
import pytest
import torch
from parity_data import MANIFEST, reference

from serab_byols import get_timestamp_embeddings
from serab_byols.errors import InvalidInputError
from serab_byols.inference.frame_grid import FrameGrid


@pytest.mark.parametrize("index", range(len(MANIFEST["framing"])))
def test_framing_tables(index):
    table, arrays = MANIFEST["framing"][index], reference("api")
    grid = FrameGrid(table["frame_samples"] / 16, table["hop_ms"], 16000)
    assert grid.frame_samples == table["frame_samples"]
    assert grid.n_frames(table["n"]) == table["n_frames"]
    timestamps = grid.timestamps_ms(table["n_frames"])
    assert timestamps.dtype == np.float32
    np.testing.assert_array_equal(timestamps, arrays[f"framing{index}__timestamps"])
    ramp = np.pad(np.arange(1, table["n"] + 1), (grid.pad_before_samples, grid.pad_after_samples))
    starts = grid.starts(0, table["n_frames"])
    np.testing.assert_array_equal(starts, arrays[f"framing{index}__starts"])
    first_last = np.stack([ramp[starts], ramp[starts + grid.frame_samples - 1]])
    expected = arrays[f"framing{index}__first_last"]
    np.testing.assert_array_equal(first_last, expected.reshape(first_last.shape))


@pytest.mark.parametrize("hop_ms", [50, 33.3, 0.1, 10.03125, 1000])
@pytest.mark.parametrize("n_samples", [1, 513, 16000, 17120, 64001])
def test_timestamps_cover_the_clip_and_never_pass_its_end(hop_ms, n_samples):
    grid = FrameGrid(1000, hop_ms, 16000)
    n_frames = grid.n_frames(n_samples)
    duration_ms = n_samples / 16
    last_ms = (n_frames - 1) * hop_ms
    assert last_ms <= duration_ms < last_ms + hop_ms + 1e-9
    starts = grid.starts(0, n_frames)
    assert starts[0] == 0
    assert starts[-1] + grid.frame_samples <= n_samples + grid.pad_before_samples + grid.pad_after_samples


@pytest.mark.parametrize("frame_ms", [1001, 1003, 1005, 999.97])
def test_frame_length_rounds_to_the_nearest_sample(frame_ms):
    assert FrameGrid(frame_ms, 50, 16000).frame_samples == round(frame_ms * 16)


@pytest.mark.parametrize("value", [0, 0.01, float("inf")])  # test_bad_input.py has more
@pytest.mark.parametrize("name", ["frame_duration", "hop_size"])
def test_impossible_grids_are_refused(tiny_model, name, value):
    with pytest.raises(InvalidInputError, match=name):
        get_timestamp_embeddings(torch.zeros(1, 16000), tiny_model, **{name: value})
