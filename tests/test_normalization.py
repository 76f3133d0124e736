"""Normalisation rules: parsing, resolution, statistics."""

import numpy as np
import pytest
import torch

from serab_byols.errors import InvalidInputError
from serab_byols.normalization import (
    STD_FLOOR,
    RunningStatistics,
    Statistics,
    averaged_statistics,
    parse_normalization,
    per_clip_statistics,
    resolve_normalization,
)


@pytest.mark.parametrize("pair", [(-6, 5), [-6.0, 5.0], np.array([-6.0, 5.0]), torch.tensor([-6.0, 5.0])])
def test_pairs_of_any_kind_are_statistics(pair):
    assert parse_normalization(pair) == Statistics(-6.0, 5.0)


@pytest.mark.parametrize("value", ["mean", "", 3, None, (1,), (1, 2, 3), (0, -1)])
def test_anything_else_is_refused(value):
    with pytest.raises(InvalidInputError, match="normalization"):
        parse_normalization(value)


def test_auto_stands_for_the_stored_statistics_or_the_clip():
    stored = Statistics(-6.0, 5.0)
    assert resolve_normalization("auto", stored) == stored
    assert resolve_normalization("auto", None) == "clip"
    assert resolve_normalization("batch", stored) == "batch"


def test_statistics_are_unbiased_and_floored():
    x = torch.randn(3, 64, 7, generator=torch.Generator().manual_seed(0)) * 4 - 6
    mean, std = per_clip_statistics(x)
    values = x.double().flatten(1)
    torch.testing.assert_close(mean.flatten().double(), values.mean(1), rtol=1e-6, atol=1e-6)
    unbiased = ((values - values.mean(1, keepdim=True)) ** 2).sum(1).div(64 * 7 - 1).sqrt()
    torch.testing.assert_close(std.flatten().double(), unbiased, rtol=1e-6, atol=1e-6)
    averaged_mean, averaged_std = averaged_statistics([x[:1], x[1:]])
    torch.testing.assert_close(averaged_mean, mean.mean())
    torch.testing.assert_close(averaged_std, std.mean())
    assert per_clip_statistics(torch.full((1, 64, 7), -15.9))[1].item() == pytest.approx(STD_FLOOR)


def test_running_statistics_equal_those_of_everything_at_once():
    blocks = [
        torch.randn(n, generator=torch.Generator().manual_seed(n)) * 3 - 1000 for n in (1, 5, 0, 1000, 37)
    ]
    running = RunningStatistics()
    for block in blocks:
        running.update(block)
    values = torch.cat(blocks).double()
    assert running.statistics.mean == pytest.approx(values.mean().item(), rel=1e-12)
    assert running.statistics.std == pytest.approx(values.std().item(), rel=1e-9)
    silent = RunningStatistics()
    silent.update(torch.zeros(10))
    assert silent.statistics == Statistics(0.0, STD_FLOOR)
