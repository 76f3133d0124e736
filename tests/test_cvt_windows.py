"""Long scenes go through CvT in windows: as documented, the same on every path, and none for shorter ones."""

import weakref

import pytest
import torch
from parity_data import assert_close_to_peak, recipe_model, speech
from sounds import write

from serab_byols import embed_file, get_scene_embeddings, get_timestamp_embeddings
from serab_byols.corpus import decode_ahead
from serab_byols.encoders import CvT, create_encoder
from serab_byols.encoders.cvt import POOLS, WINDOW_COLUMNS
from serab_byols.encoders.encoder import flatten_mel_major
from serab_byols.inference import scenes, streaming
from serab_byols.inference.runners import make_runner
from serab_byols.inference.runners.cvt import CvTRunner
from serab_byols.inference.runners.module_runner import ModuleRunner

STEP_COLUMNS, HOP_SAMPLES = 16, 160
LIMIT = 48
CLIP = speech(3, 28_000)[None]
"""176 columns, 11 steps: windows of 48, 48, 48 and 32 columns."""


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def limit(monkeypatch):
    def set_limit(n_columns):
        monkeypatch.setattr(CvT, "window_columns", n_columns)

    set_limit(LIMIT)
    return set_limit


def widths(n_columns):
    encoder = create_encoder("cvt", channels=[1, 1, 1])
    return [window.shape[-1] for window in encoder.windows(torch.empty(1, 1, 64, n_columns, device="meta"))]


def test_ten_minutes_are_one_window():
    assert WINDOW_COLUMNS == CvT.window_columns == 600 * 16000 // HOP_SAMPLES
    assert widths(1) == [1]
    assert widths(60_001) == [60_001]  # what ten minutes have
    assert widths(60_002) == [30_016, 29_986]
    assert widths(25 * 6000 + 1) == [50_000, 50_000, 50_001]  # 8 min 20 s, as documented
    assert widths(60 * 6000 + 1) == [60_000] * 5 + [60_001]
    assert widths(61 * 6000 + 1) == [52_288] * 6 + [52_273]


@pytest.mark.parametrize("n_columns", [50, 97, 144, 145, 1000, 4807])
def test_windows_are_few_equal_whole_steps_and_within_the_limit(limit, n_columns):
    *whole, last = widths(n_columns)
    assert sum(whole) + last == n_columns
    assert len(set(whole)) == 1
    assert whole[0] % STEP_COLUMNS == 0
    assert 1 < last <= whole[0] + 1 <= LIMIT + 1
    assert len(whole) == (n_columns - 2) // LIMIT


@pytest.mark.parametrize("pool", POOLS)
def test_the_embedding_pools_the_steps_of_all_windows(narrow, limit, pool):
    encoder = narrow("cvt", pool=pool).encoder
    x = torch.randn(2, 1, 64, 167, generator=torch.Generator().manual_seed(0))
    windows = [encoder.layers(x[..., first : first + 48]) for first in (0, 48, 96, 144)]
    assert [features.shape[3] for features in windows] == [3, 3, 3, 2]
    if pool == "mean+max":
        rows = [flatten_mel_major(features) for features in windows]
    else:
        rows = [features.flatten(2).transpose(1, 2) for features in windows]
    mean = sum(part.mean(dim=1) * weight for part, weight in zip(rows, (3 / 11, 3 / 11, 3 / 11, 2 / 11)))
    peak = torch.stack([part.amax(dim=1) for part in rows]).amax(dim=0)
    expected = {"mean": mean, "max": peak, "mean+max": mean + peak}[pool]
    assert_close_to_peak(encoder(x), expected, 1e-5)
    model = narrow("cvt", pool=pool)
    assert isinstance(make_runner(model), CvTRunner)
    assert_close_to_peak(make_runner(model)(x[:, 0]), expected, 1e-5)
    assert_close_to_peak(ModuleRunner(encoder)(x[:, 0]), expected, 1e-5)


def test_up_to_the_limit_nothing_changes(limit):
    """To the last bit, at the published widths."""
    model = recipe_model("cvt")
    clip = CLIP[:, : LIMIT * HOP_SAMPLES]  # 49 columns
    short, whole = get_scene_embeddings(clip, model), model(clip)
    longer = get_scene_embeddings(CLIP, model)
    limit(None)
    assert torch.equal(get_scene_embeddings(clip, model), short)
    assert torch.equal(model(clip), whole)
    attended = get_scene_embeddings(CLIP, model)
    assert not torch.equal(attended, longer)  # which is an approximation
    assert torch.nn.functional.cosine_similarity(attended, longer) > 0.8


def test_every_path_gives_the_same(narrow, limit, tmp_path, monkeypatch):
    model = narrow("cvt", normalization=(-6.0, 5.0))
    scene = get_scene_embeddings(CLIP, model)
    assert_close_to_peak(model(CLIP), scene)
    assert_close_to_peak(get_scene_embeddings([CLIP[0], CLIP[0, :5000]], model)[0], scene[0])
    features, times_ms = model.features(CLIP)
    assert_close_to_peak(features.mean(dim=1) + features.amax(dim=1), scene)
    assert times_ms.tolist() == [160.0 * step for step in range(11)]
    shapes = {name: tuple(steps.shape[:2]) for name, (steps, _) in model.all_features(CLIP).items()}
    assert shapes == {"stage1": (1, 44), "stage2": (1, 22), "stage3": (1, 11)}
    # A frame longer than a window is a scene, too.
    frames, _ = get_timestamp_embeddings(CLIP, model, 1750, 5000)
    padded = torch.nn.functional.pad(CLIP, (14_000, 14_000))[:, :28_000]
    assert_close_to_peak(frames[0, 0], get_scene_embeddings(padded, model)[0])
    path = write(tmp_path / "clip.wav", CLIP[0].numpy(), 16000, subtype="FLOAT")
    assert_close_to_peak(torch.from_numpy(embed_file(path, model).embedding), scene[0])
    monkeypatch.setattr(decode_ahead, "STREAM_S", 0.5)
    for block in (4000, 7777):
        for module in (streaming, scenes):
            monkeypatch.setattr(module, "BLOCK_SAMPLES", block)
        assert_close_to_peak(torch.from_numpy(embed_file(path, model).embedding), scene[0])
        assert_close_to_peak(get_scene_embeddings(CLIP, model), scene)


def test_it_is_the_same_again_and_differentiable(narrow, limit):
    model = narrow("cvt")
    assert torch.equal(get_scene_embeddings(CLIP, model), get_scene_embeddings(CLIP, model))
    with torch.enable_grad():
        waveform = CLIP.clone().requires_grad_()
        model(waveform).sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()
    assert (waveform.grad[:, -2000:] != 0).any()


def test_memory_is_that_of_one_window(narrow, limit, monkeypatch):
    alive, most = weakref.WeakSet(), 0
    original = CvTRunner._last_stage

    def watched(self, log_mel):
        nonlocal most
        assert log_mel.shape[2] <= LIMIT + 1
        features = original(self, log_mel)
        alive.add(features)
        most = max(most, len(alive))
        return features

    monkeypatch.setattr(CvTRunner, "_last_stage", watched)
    get_scene_embeddings(speech(3, 160_000)[None], narrow("cvt"))
    assert 1 <= most <= 2  # the next one is computed while the last one is held
