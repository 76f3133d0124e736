"""The fast path: equal to the plain module, never stale, and the caller's module is only read."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from parity_data import VARIANTS, assert_close_to_peak, encoder_input, recipe_model, speech

from serab_byols import get_scene_embeddings, get_timestamp_embeddings, load_model, save_checkpoint
from serab_byols.encoders import ENCODERS
from serab_byols.errors import InvalidInputError
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.inference.runners import PooledRunner, Runner, make_runner
from serab_byols.inference.runners.audiontt import AudioNTTRunner
from serab_byols.inference.runners.clstm import CLSTMRunner
from serab_byols.inference.runners.module_runner import ModuleRunner
from serab_byols.inference.streaming import split_into_blocks
from serab_byols.inference.timestamps import cut_frames
from serab_byols.normalization import Statistics

CLIP = speech(1, 4000)[None]
encoders = pytest.mark.parametrize("name", list(ENCODERS))


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", VARIANTS)
def test_runner_equals_the_module(variant):
    model = recipe_model(variant)
    runner, shortest = make_runner(model), model.encoder.min_columns
    assert not isinstance(runner, ModuleRunner)
    inputs = [encoder_input(index)[1][:, 0] for index in range(5)]
    for x in (*inputs, *(noise(1, 64, n_columns) for n_columns in (shortest, shortest + 1, 37, 53))):
        assert_close_to_peak(runner(x), model.encoder(x[:, None]))


@pytest.mark.parametrize("name", ["default", "resnetish34", "clstm"])
def test_chunks_with_halos_equal_the_whole(narrow, name):
    model, x = narrow(name), noise(1, 64, 777)
    runner = make_runner(model)
    for n_steps in (20, 23):
        runner.chunk_columns = n_steps * runner.stride
        assert len(list(runner.steps(x))) > 1
        assert_close_to_peak(runner(x), model.encoder(x[:, None]))
        assert_close_to_peak(torch.cat(list(runner.steps(x)), dim=1), runner.features(x))
    # Without halos they do not: the test can fail.
    runner.halo_before = runner.halo_after = 0
    cut, whole = torch.cat(list(runner.steps(x)), dim=1), runner.features(x)
    assert cut.shape != whole.shape or (cut - whole).abs().max() > 1e-3 * whole.abs().max()


@encoders
def test_micro_batches_equal_the_batch(narrow, name):
    model, x = narrow(name), noise(7, 64, 32)
    runner = make_runner(model)
    runner.columns_at_once = 64
    assert_close_to_peak(runner(x), model.encoder(x[:, None]))


# --- never stale, caller's model untouched -------------------------------------------------------


@torch.enable_grad()
def change_by_fused_optimizer(model):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    model.encoder(noise(2, 1, 64, 32)).sum().backward()
    optimizer.step()
    model.eval()


def change_through_data(model):
    for parameter in model.parameters():
        parameter.data.mul_(0.9)


def change_norm_buffers(model):
    model.train()
    model.encoder(noise(2, 1, 64, 32) * 5 + 1)
    model.eval()


def change_by_load_state_dict(model):
    model.load_state_dict({key: value * 0.9 for key, value in model.state_dict().items()})


def change_by_to(model):
    model.to(torch.float64)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, change_by_fused_optimizer) for name in ENCODERS),
        ("default", change_through_data),
        ("default", change_norm_buffers),
        ("default", change_by_load_state_dict),
        ("default", change_by_to),
    ],
)
def test_never_stale(narrow, name, change):
    model = narrow(name)
    before = get_scene_embeddings(CLIP, model)
    change(model)
    after = get_scene_embeddings(CLIP, model)
    assert_close_to_peak(after, model(CLIP).float(), 2e-5)
    if change is not change_by_to:
        assert (after - before).abs().max() > 1e-4 * before.abs().max()


@pytest.mark.parametrize(
    ("name", "layer"), [("default", "fc.3"), ("clstm", "fc_final.0"), ("cvt", "layers.0.0")]
)
def test_never_stale_within_one_autocast(narrow, name, layer):
    """Autocast keeps its copies of parameters until it ends."""
    model = narrow(name)
    with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = get_scene_embeddings(CLIP, model)
        model.encoder.get_submodule(layer).weight.data.mul_(3)
        after = get_scene_embeddings(CLIP, model)
    assert (after - before).abs().max() > 0.01 * before.abs().max()


class DoubledLinear(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def add_hook(encoder):
    return encoder.fc[0].register_forward_hook(lambda module, args, output: output * 2)


def replace_by_subclass(encoder):
    encoder.fc[3] = DoubledLinear(8, 8)


def parametrize_weight(encoder):
    torch.nn.utils.parametrizations.weight_norm(encoder.features[0])


def set_own_forward(encoder):
    encoder.forward = encoder.forward  # as wrappers of a module do


def change_padding_mode(encoder):
    encoder.features[0] = torch.nn.Conv2d(1, 8, 3, padding=1, padding_mode="reflect")


def remove_affine(encoder):
    encoder.features[1] = torch.nn.BatchNorm2d(8, affine=False)


@pytest.mark.parametrize(
    "modify",
    [add_hook, replace_by_subclass, parametrize_weight, set_own_forward, change_padding_mode, remove_affine],
)
def test_modified_encoders_run_their_own_code_in_eval_mode(narrow, modify):
    model = narrow()
    modify(model.encoder)
    assert isinstance(make_runner(model), ModuleRunner)
    expected = model.eval()(CLIP)
    model.train()
    buffers = {key: value.clone() for key, value in model.encoder.named_buffers()}
    assert_close_to_peak(get_scene_embeddings(CLIP, model), expected)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, buffers[key]) for key, value in model.encoder.named_buffers())


def test_a_hook_takes_effect_until_it_is_removed(narrow):
    model = narrow()
    before = get_scene_embeddings(CLIP, model)
    handle = add_hook(model.encoder)
    assert (get_scene_embeddings(CLIP, model) - before).abs().max() > 0.01 * before.abs().max()
    handle.remove()
    assert torch.equal(get_scene_embeddings(CLIP, model), before)


def test_threads_share_one_model(narrow):
    model = narrow().train()
    clips = [speech(seed, 6000)[None] for seed in range(6)]
    expected = [get_scene_embeddings(clip, model) for clip in clips]
    with ThreadPoolExecutor(len(clips)) as pool:
        results = list(pool.map(lambda clip: get_scene_embeddings(clip, model), clips))
    for result, reference in zip(results, expected):
        assert_close_to_peak(result, reference)
    assert model.training


def test_compiled_models_and_encoders(narrow, tmp_path):
    model = narrow()
    expected = get_scene_embeddings(CLIP, model)
    assert_close_to_peak(get_scene_embeddings(CLIP, torch.compile(model, backend="eager")), expected)
    model.encoder = torch.compile(model.encoder, backend="eager")
    assert_close_to_peak(get_scene_embeddings(CLIP, model), expected)
    assert_close_to_peak(model(CLIP), expected)
    path = save_checkpoint(model, tmp_path / "compiled.safetensors")  # with the published keys
    assert_close_to_peak(get_scene_embeddings(CLIP, load_model(path)), expected)


@encoders
def test_autocast_is_the_callers_choice(narrow, name):
    model = narrow(name)
    expected = get_scene_embeddings(CLIP, model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = get_scene_embeddings(CLIP, model)
        frames, _ = get_timestamp_embeddings(CLIP, model)
        forward = model(CLIP).float()
    assert embedding.dtype == frames.dtype == torch.float32
    assert not torch.equal(embedding, expected)
    assert_close_to_peak(embedding, expected, 5e-2)
    assert_close_to_peak(forward, expected, 5e-2)


# --- frames that share features -----------------------------------------------------------------


def assert_shared_frames_equal_those_cut_first(model, runner, clip, frame_ms, hop_ms, monkeypatch):
    n_shared, original = [], runner._shared
    monkeypatch.setattr(
        runner, "_shared", lambda self, frames: n_shared.append(len(frames)) or original(self, frames)
    )
    embeddings, _ = get_timestamp_embeddings(clip, model, frame_ms, hop_ms)
    assert sum(n_shared) == embeddings.shape[1]
    monkeypatch.setattr(runner, "embed_frames", Runner.embed_frames)
    assert_close_to_peak(embeddings, get_timestamp_embeddings(clip, model, frame_ms, hop_ms)[0])


sharing = pytest.mark.parametrize(("name", "runner"), [("default", AudioNTTRunner), ("clstm", CLSTMRunner)])


@sharing
@pytest.mark.parametrize(
    ("frame_ms", "hop_ms"),
    [(1000, 50), (1000, 10), (950, 25), (1003, 50), (999, 40), (500, 20), (380, 25), (330, 10), (1010, 110)],
)
def test_shared_features_equal_those_of_frames_cut_first(narrow, monkeypatch, name, runner, frame_ms, hop_ms):
    clip = speech(6, 27777 if name == "default" else 17777)[None]
    assert_shared_frames_equal_those_cut_first(narrow(name), runner, clip, frame_ms, hop_ms, monkeypatch)


@pytest.mark.parametrize(("variant", "runner"), [("default512", AudioNTTRunner), ("clstm", CLSTMRunner)])
def test_shared_features_at_the_published_widths(monkeypatch, variant, runner):
    clip = speech(6, 9000)[None]
    assert_shared_frames_equal_those_cut_first(recipe_model(variant), runner, clip, 500, 50, monkeypatch)


@sharing
@pytest.mark.parametrize(
    ("frame_ms", "hop_ms"), [(1000, 33.3), (200, 10), (1000, 990), (90, 10), (1000, 1.0625)]
)
def test_frames_that_overlap_little_are_not_shared(narrow, monkeypatch, name, runner, frame_ms, hop_ms):
    monkeypatch.setattr(runner, "_shared", lambda self, frames: pytest.fail("shared"))
    clip = speech(6, 8000 if hop_ms > 2 else 600)[None]
    assert get_timestamp_embeddings(clip, narrow(name), frame_ms, hop_ms)[0].isfinite().all()


@pytest.mark.parametrize("hop_ms", [20, 5_000, 60_000])
def test_frames_that_are_cut_together_hold_samples_of_bounded_length(narrow, hop_ms):
    grid, clip = FrameGrid(1000.0, float(hop_ms), 16000), torch.zeros(16000 * 600)
    batches = list(cut_frames(lambda: split_into_blocks(clip), narrow(), grid, Statistics(0.0, 1.0)))
    assert sum(map(len, batches)) == grid.n_frames(len(clip))
    assert max(len(batch.samples) for batch in batches) < 16000 * 180


@pytest.mark.parametrize("dense", [False, True])
def test_a_long_hop_gives_some_of_the_frames_of_a_short_one(narrow, dense):
    """On a clip that goes through in several blocks and chunks."""
    model, clip = narrow(normalization=(-6.0, 5.0)), speech(2, 16000 * 60)[None]
    close, _ = get_timestamp_embeddings(clip, model, 500, 1000, dense=dense)
    apart, times = get_timestamp_embeddings(clip, model, 500, 13000, dense=dense)
    assert times[0].tolist() == [13000.0 * k for k in range(5)]
    assert_close_to_peak(apart, close[:, ::13])


# --- dense frames -------------------------------------------------------------------------------


def test_dense_frames_are_close_to_exact_ones():
    model, clip = recipe_model("default512", normalization=(-6.0, 5.0)), speech(3, 24000)[None]
    exact, dense = (get_timestamp_embeddings(clip, model, dense=dense)[0][0] for dense in (False, True))
    similarity = torch.nn.functional.cosine_similarity(exact - exact.mean(0), dense - exact.mean(0))
    assert similarity.median() > 0.9


@pytest.mark.parametrize(("name", "width"), [("default", 12), ("resnetish34", 7)])
def test_dense_frames_pool_the_steps_of_the_padded_clip(narrow, name, width):
    model, clip = narrow(name, normalization=(-6.0, 5.0)), speech(3, 20000)
    runner = make_runner(model)
    assert isinstance(runner, PooledRunner)
    log_mel = model.frontend(torch.nn.functional.pad(clip, (8000, 8000))[None])
    steps = runner.features((log_mel + 6) / 5)[0]
    dense, _ = get_timestamp_embeddings(clip[None], model, 1000, 100, dense=True)
    for k in range(dense.shape[1]):  # a hop is 10 columns; frames start at the nearest step
        first = min(round(k * 10 / runner.stride), len(steps) - width)
        window = steps[first : first + width]
        assert_close_to_peak(dense[0, k], window.mean(dim=0) + window.amax(dim=0))


@pytest.mark.parametrize(("frame_ms", "hop_ms"), [(1000, 50), (30, 10), (333.3, 7.7), (5000, 1000)])
@pytest.mark.parametrize("n_samples", [1, 700, 17000])
def test_dense_takes_any_grid(narrow, frame_ms, hop_ms, n_samples):
    model, clip = narrow(), speech(1, 17000)[None, :n_samples]
    dense, times = get_timestamp_embeddings(clip, model, frame_ms, hop_ms, dense=True)
    exact, exact_times = get_timestamp_embeddings(clip, model, frame_ms, hop_ms)
    assert dense.shape == exact.shape
    assert torch.equal(times, exact_times)
    assert dense.isfinite().all()


@pytest.mark.parametrize("name", ["clstm", "cvt"])
def test_dense_is_for_convolutions(narrow, name):
    with pytest.raises(InvalidInputError, match="'default' and 'resnetish34'"):
        get_timestamp_embeddings(CLIP, narrow(name), dense=True)
