"""What the network sees: resizing, mixing, running statistics; they depend on the seed and the step alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.distributed import Share
from serab_byols.pretrain.running_norm import RunningNorm, standardize_together
from serab_byols.pretrain.views import (
    Draws,
    MixupMemory,
    Views,
    log_mixup_exp,
    random_equalizer,
    random_linear_fader,
    random_resize_crop,
    silence_ends,
)

CPU = torch.device("cpu")


def draws(n, seed=0, step=0):
    return Draws(seed, step, Share(0, 1, n), CPU)


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class FixedDraws:
    """Gives out the numbers it was made with, in order, instead of random ones."""

    def __init__(self, *numbers):
        self._numbers = list(numbers)

    def uniform(self, *shape):
        numbers = self._numbers.pop(0)
        assert numbers.shape[1:] == shape
        return numbers


def test_every_clip_is_resized_from_its_own_part_of_the_canvas():
    """As by bicubic interpolation of that part, be it one point or the whole."""
    x = random(4, 64, 40)
    config = PretrainConfig(crop_scale=(0.01, 1.5), crop_virtual_time=1.5)
    scale = torch.tensor([[0.502, 0.567], [0.99, 0.966], [0.0, 0.0], [0.99, 0.99]])
    corner = torch.tensor([[0.5, 0.9], [0.99, 0.1], [0.5, 0.5], [0.2, 0.2]])
    resized = random_resize_crop(x, FixedDraws(scale, corner), config)
    canvas = F.pad(x, (10, 10))
    parts = [(48, 34, 8, 24), (64, 57, 0, 0), (1, 1, 32, 30), (64, 59, 0, 0)]
    for clip, (height, width, top, left) in enumerate(parts):
        part = canvas[clip, top : top + height, left : left + width]
        expected = F.interpolate(part[None, None], size=(64, 40), mode="bicubic", align_corners=True)[0, 0]
        torch.testing.assert_close(resized[clip], expected, atol=5e-5, rtol=0)


def test_resize_crops_take_every_size_and_place():
    n = 2000
    # A ramp in both directions tells which part was taken: its corners.
    ramp = torch.arange(64.0)[:, None] + 1000 * torch.arange(1.0, 21)[None, :]
    config = PretrainConfig(crop_s=0.19)
    corners = random_resize_crop(ramp.expand(n, -1, -1), draws(n), config)
    whole_in_time = corners[(corners[:, 0, 0] > 500) & (corners[:, 0, -1] > 500)]
    top, bottom = (whole_in_time[:, row, 0] % 1000 for row in (0, -1))
    heights = (bottom - top).round().long() + 1
    assert set(range(38, 65)) <= set(heights.tolist())
    assert (heights == 64).float().mean() > 0.4  # all scales from 1 to 1.5
    free = 64 - heights
    places = (top / free)[free > 10]
    assert places.min() < 0.1
    assert places.max() > 0.9


def test_mixup_mixes_powers():
    x, other = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[1.0, -30.0]]])
    mixed = log_mixup_exp(x, other, torch.tensor([[[0.25]]]))
    expected = [math.log(0.75 + 0.25 * math.e), math.log(0.75 * math.e**2)]
    torch.testing.assert_close(mixed.flatten(), torch.tensor(expected), atol=1e-6, rtol=0)


def test_the_memory_forgets_the_oldest_and_is_chosen_from_evenly():
    memory = MixupMemory(5, 3)
    assert memory.choose(torch.rand(2)) is None
    for first, n in ((0, 3), (3, 3), (6, 3), (9, 12)):  # at last a batch larger than the memory
        memory.add(torch.arange(first, first + float(n))[:, None, None].expand(n, 64, 3))
        held = range(first + n)[-5:]
        chosen = memory.choose(torch.arange(2000) / 2000)[:, 0, 0]
        shares = [(chosen == value).float().mean() for value in held]
        assert shares == pytest.approx([1 / len(held)] * len(held), abs=1e-3)


def test_no_view_is_mixed_with_its_own_crop():
    """The published training remembered a crop before its second view was mixed."""
    views = Views(PretrainConfig(crop_s=0.19, crop_scale=(1, 1), crop_virtual_time=1, mixup_memory=64), 100)
    x = random(4, 64, 20)
    for view in views.augment(x, draws(4)):  # nothing to mix with, and a crop that is the whole
        torch.testing.assert_close(view, x, atol=1e-5, rtol=0)
    second = views.augment(20 + x, draws(4, step=1))
    for view in second:  # mixed with the first batch, which is weak: still the second, a little quieter
        assert ((20 + x) - view).min() > -1e-3
        assert ((20 + x) - view).max() < -math.log(0.6) + 1e-3
    assert not torch.equal(*second)


def test_a_probability_leaves_views_as_they_are():
    views, x = Views(PretrainConfig(crop_s=0.19, view_probability=0.5), 100), random(400, 64, 20)
    views.augment(x, draws(400))
    view, _ = views.augment(x, draws(400, step=1))
    untouched = (view == x).flatten(1).all(1).float().mean()
    assert 0.18 < untouched < 0.33


def test_the_fader_adds_a_line():
    ends = torch.tensor([[0.0, 1.0]])[:, :, None, None]
    faded = random_linear_fader(torch.zeros(1, 64, 5), FixedDraws(ends), gain=2.0)
    torch.testing.assert_close(faded[0, 7], torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))


def test_the_equalizer_adds_one_smooth_curve_to_all_of_a_clip():
    curve = random_equalizer(torch.zeros(200, 64, 5), draws(200), gain=0.5)
    assert torch.equal(curve[:, :, 0], curve[:, :, 4])
    assert 0.4 < curve[:, 0, 0].std() / math.sqrt(4) < 0.6
    assert curve[:, :, 0].diff(dim=1).abs().max() < 0.5


def test_silence_takes_an_end_of_some_crops():
    waveforms = silence_ends(torch.ones(1000, 50), draws(1000), probability=0.3)
    has_silence = (waveforms == 0).any(1)
    assert 0.2 < has_silence.float().mean() < 0.36
    assert (waveforms[has_silence].diff(dim=1) != 0).sum(1).max() == 1
    begins, ends = (waveforms[has_silence][:, k] == 0 for k in (0, -1))
    assert begins.any()
    assert ends.any()


def test_running_means_are_means_of_all_crops_so_far():
    """The published training divided by the count before the new crop: 2.15, 6.15, 8.15."""
    norm = RunningNorm(n_to_learn=100)
    means = []
    for mean in (2.15, 6.15, 10.15):
        norm(mean + torch.tensor([[[-1.0, 0.0], [0.0, 1.0]]]))
        means.append(norm.statistics.mean)
    np.testing.assert_allclose(means, [2.15, 4.15, 6.15], rtol=1e-6)
    # Every crop has a variance of 1/2; that between the crops is (16 + 0 + 16) / 3.
    assert norm.statistics.std == pytest.approx(math.sqrt(1 / 2 + 32 / 3))


def test_running_statistics_do_not_depend_on_the_batches_and_stay_once_learned():
    x = random(12, 64, 5) * 3 + 1
    together, apart = RunningNorm(12), RunningNorm(12)
    together(x)
    for part in (*x.split(5), x + 30):  # the last comes after the twelve crops
        apart(part)
    np.testing.assert_allclose(together.statistics, apart.statistics, rtol=1e-6)
    np.testing.assert_allclose(together.statistics, (x.mean(), x.std()), rtol=1e-3)


def test_fixed_statistics_are_used_from_the_start():
    norm = RunningNorm(100, (-6.0, 5.0))
    torch.testing.assert_close(norm(torch.full((2, 64, 5), 4.0)), torch.full((2, 64, 5), 2.0))
    assert norm.statistics == (-6.0, 5.0)


def test_post_normalisation_standardises_both_views_together():
    views = [torch.randn(3, 64, 5) * 2 + 1, torch.randn(3, 64, 5) - 4]
    both = torch.cat(views)
    for view, after in zip(views, standardize_together(views)):
        torch.testing.assert_close(after, (view - both.mean()) / both.std(), atol=1e-5, rtol=0)


def test_silent_views_stay_finite():
    config = PretrainConfig(crop_s=0.3)
    views, log_mel = Views(config, 100)(torch.zeros(2, config.n_samples), draws(2))
    assert all(x.isfinite().all() for x in (*views, log_mel))


def test_views_depend_on_seed_and_step_alone():
    config = PretrainConfig(crop_s=0.3, fader_gain=0.5, equalizer_gain=0.2, silence_probability=0.5)
    waveforms = random(4, config.n_samples) / 10

    def views(seed, step):
        return torch.stack(Views(config, 100)(waveforms, draws(4, seed, step))[0])

    assert torch.equal(views(1, 2), views(1, 2))
    assert not torch.equal(views(1, 2), views(1, 3))
    assert not torch.equal(views(1, 2), views(2, 2))


def test_a_process_draws_its_rows_of_what_one_process_would_draw():
    alone = draws(6)
    parts = [Draws(0, 0, Share(rank, 3, 2), CPU) for rank in range(3)]
    for shape in ((), (2,), (1, 1)):
        assert torch.equal(alone.uniform(*shape), torch.cat([part.uniform(*shape) for part in parts]))
    assert torch.equal(alone.normal(4), torch.cat([part.normal(4) for part in parts]))
