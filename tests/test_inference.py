"""The fast path: equal to the plain module, never stale, harmless to the caller's module."""

import threading

import pytest
import torch
from parity_data import VARIANTS, assert_close_to_peak, encoder_input, recipe_model, voice

from serab_byols import (
    create_model,
    get_scene_embeddings,
    get_timestamp_embeddings,
    load_model,
    save_checkpoint,
)
from serab_byols.errors import InvalidInputError
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.inference.runners import PooledRunner, Runner, make_runner
from serab_byols.inference.runners.audiontt import AudioNTTRunner
from serab_byols.inference.runners.clstm import CLSTMRunner
from serab_byols.inference.runners.cvt import MAX_COLUMNS
from serab_byols.inference.runners.module_runner import ModuleRunner
from serab_byols.inference.streaming import split_into_blocks
from serab_byols.inference.timestamps import cut_frames
from serab_byols.normalization import Statistics

variants = pytest.mark.parametrize("variant", VARIANTS)


def run(model, log_mel):
    with torch.no_grad():
        return make_runner(model)(log_mel)


def plain(model, log_mel):
    with torch.no_grad():
        return model.encoder(log_mel[:, None])


@variants
@pytest.mark.parametrize("index", range(5))
def test_runner_equals_the_module(variant, index):
    model = recipe_model(variant)
    assert not isinstance(make_runner(model), ModuleRunner)
    x = encoder_input(index)[1][:, 0]
    assert_close_to_peak(run(model, x), plain(model, x))


@variants
def test_runner_equals_the_module_at_odd_lengths(variant):
    model = recipe_model(variant)
    for n_columns in (model.encoder.min_columns, model.encoder.min_columns + 1, 37, 53):
        x = torch.randn(1, 64, n_columns, generator=torch.Generator().manual_seed(n_columns))
        assert_close_to_peak(run(model, x), plain(model, x))


@pytest.mark.parametrize("variant", ["default512", "resnetish34", "clstm"])
def test_chunks_with_halos_equal_the_whole(variant):
    model = recipe_model(variant)
    x = torch.randn(1, 64, 777, generator=torch.Generator().manual_seed(0))
    expected = plain(model, x)
    runner = make_runner(model)
    with torch.no_grad():
        for n_steps in (20, 23):
            runner.chunk_columns = n_steps * runner.stride
            assert len(list(runner.steps(x))) > 1
            assert_close_to_peak(runner(x), expected)
            assert_close_to_peak(torch.cat(list(runner.steps(x)), dim=1), runner.features(x))
        # Without halos they do not: the test can fail.
        runner.halo_before = runner.halo_after = 0
        cut, whole = torch.cat(list(runner.steps(x)), dim=1), runner.features(x)
        assert cut.shape != whole.shape or (cut - whole).abs().max() > 1e-3


@variants
def test_micro_batches_equal_the_batch(variant):
    model = recipe_model(variant)
    x = torch.randn(7, 64, 32, generator=torch.Generator().manual_seed(0))
    runner = make_runner(model)
    runner.columns_at_once = 64
    with torch.no_grad():
        assert_close_to_peak(runner(x), plain(model, x))


def change_by_fused_optimizer(model):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    model.encoder(torch.randn(2, 1, 64, 32)).sum().backward()
    optimizer.step()
    model.eval()


def change_through_data(model):
    for parameter in model.parameters():
        parameter.data.mul_(0.9)


def change_norm_buffers(model):
    model.train()
    with torch.no_grad():
        model.encoder(torch.randn(2, 1, 64, 32) * 5 + 1)
    model.eval()


def change_by_load_state_dict(model):
    model.load_state_dict({key: value * 0.9 for key, value in model.state_dict().items()})


def change_by_to(model):
    model.to(torch.float64)


@pytest.mark.parametrize("name", ["default", "clstm", "cvt", "resnetish34"])
@pytest.mark.parametrize(
    "change",
    [
        change_by_fused_optimizer,
        change_through_data,
        change_norm_buffers,
        change_by_load_state_dict,
        change_by_to,
    ],
)
def test_never_stale(name, change):
    torch.manual_seed(0)
    model = create_model(name, **({"d": 32} if name == "default" else {}))
    clip = voice(1, 4000)[None]
    before = get_scene_embeddings(clip, model)
    change(model)
    after = get_scene_embeddings(clip, model)
    with torch.no_grad():
        assert_close_to_peak(after, model(clip).float(), 2e-5)
    if change is not change_by_to:
        assert (after - before).abs().max() > 1e-4 * before.abs().max()


def test_hooks_replaced_layers_and_subclasses_run_as_they_are():
    torch.manual_seed(0)
    clip = voice(1, 4000)[None]

    model = create_model("default", d=16)
    before = get_scene_embeddings(clip, model)
    handle = model.encoder.fc[0].register_forward_hook(lambda module, args, output: output * 2)
    hooked = get_scene_embeddings(clip, model)
    assert (hooked - before).abs().max() > 1e-3
    torch.testing.assert_close(hooked, model(clip).detach())
    handle.remove()
    torch.testing.assert_close(get_scene_embeddings(clip, model), before)

    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    layer = Doubled(16, 16)
    layer.load_state_dict(model.encoder.fc[3].state_dict())
    model.encoder.fc[3] = layer.eval()
    torch.testing.assert_close(get_scene_embeddings(clip, model), model(clip).detach())
    assert isinstance(make_runner(model), ModuleRunner)

    model = create_model("default", d=16)
    torch.nn.utils.parametrizations.weight_norm(model.encoder.features[0])
    torch.testing.assert_close(get_scene_embeddings(clip, model), model(clip).detach(), rtol=1e-4, atol=1e-5)


def test_never_stale_within_one_autocast():
    """Which keeps what it made of a parameter for as long as it lasts."""
    torch.manual_seed(0)
    clip = voice(1, 4000)[None]
    for name, layer in (("default", "fc.3"), ("clstm", "fc_final.0"), ("cvt", "layers.0.0")):
        model = create_model(name, **({"d": 16} if name == "default" else {}))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            before = get_scene_embeddings(clip, model)
            model.encoder.get_submodule(layer).weight.data.mul_(3)
            after = get_scene_embeddings(clip, model)
        assert (after - before).abs().max() > 0.01 * before.abs().max(), name


def test_layers_of_the_same_class_with_other_settings_run_as_they_are():
    torch.manual_seed(0)
    clip = voice(1, 4000)[None]
    model = create_model("default", d=16)
    model.encoder.features[0] = torch.nn.Conv2d(1, 64, 3, padding=1, padding_mode="reflect")
    torch.testing.assert_close(get_scene_embeddings(clip, model), model(clip).detach())
    model = create_model("default", d=16)
    model.encoder.features[1] = torch.nn.BatchNorm2d(64, affine=False).eval()
    torch.testing.assert_close(get_scene_embeddings(clip, model), model(clip).detach())


def hooked(encoder):
    encoder.features[0].register_forward_hook(lambda *_: None)


def with_a_forward_of_its_own(encoder):
    encoder.forward = encoder.forward  # as wrappers of a module do


@pytest.mark.parametrize("change", [hooked, with_a_forward_of_its_own])
def test_plain_runner_neither_trains_nor_changes_mode(change):
    torch.manual_seed(0)
    model = create_model("default", d=16)
    change(model.encoder)
    clip = voice(1, 4000)[None]
    expected = get_scene_embeddings(clip, model)
    model.train()
    buffers = {key: value.clone() for key, value in model.encoder.named_buffers()}
    torch.testing.assert_close(get_scene_embeddings(clip, model), expected)
    assert all(module.training for module in model.modules())
    for key, value in model.encoder.named_buffers():
        torch.testing.assert_close(value, buffers[key], rtol=0, atol=0)


def test_threads_share_one_model():
    model = recipe_model("default512").train()
    clips = [voice(seed, 6000)[None] for seed in range(6)]
    expected = [get_scene_embeddings(clip, model) for clip in clips]
    results = [None] * len(clips)

    def work(i):
        results[i] = get_scene_embeddings(clips[i], model)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, reference in zip(results, expected):
        assert_close_to_peak(result, reference)
    assert model.training


def test_a_compiled_encoder_is_saved_with_the_published_keys(tmp_path):
    torch.manual_seed(0)
    model = create_model("default", d=16)
    clip = voice(1, 6000)[None]
    expected = get_scene_embeddings(clip, model)
    model.encoder = torch.compile(model.encoder, backend="eager")
    path = save_checkpoint(model, tmp_path / "compiled.safetensors")
    torch.testing.assert_close(get_scene_embeddings(clip, load_model(path)), expected)


def test_works_under_torch_compile():
    model = recipe_model("default512")
    clip = voice(1, 6000)[None]
    expected = get_scene_embeddings(clip, model)
    compiled = torch.compile(model, backend="eager")
    assert_close_to_peak(get_scene_embeddings(clip, compiled), expected)
    model.encoder = torch.compile(model.encoder, backend="eager")
    assert_close_to_peak(get_scene_embeddings(clip, model), expected)
    assert_close_to_peak(model(clip).detach(), expected)


@pytest.mark.parametrize("variant", ["default512", "resnetish34", "clstm", "cvt"])
def test_autocast_is_the_callers_choice(variant):
    model = recipe_model(variant)
    clip = voice(1, 8000)[None]
    expected = get_scene_embeddings(clip, model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = get_scene_embeddings(clip, model)
        frames, _ = get_timestamp_embeddings(clip, model)
    assert embedding.dtype == frames.dtype == torch.float32
    assert not torch.equal(embedding, expected)
    assert_close_to_peak(embedding, expected, 5e-2)


def test_a_scene_too_long_for_attention_is_refused_before_memory_runs_out():
    model = recipe_model("cvt")
    with pytest.raises(InvalidInputError, match=r"quadratic.*limited to 10 minutes, got 10\.0"):
        run(model, torch.zeros(1, 64, MAX_COLUMNS + 1))


# --- frames that share features -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame_ms", "hop_ms"),
    [(1000, 50), (1000, 10), (950, 25), (1003, 50), (999, 40), (500, 20), (380, 25), (330, 10), (1010, 110)],
)
@pytest.mark.parametrize(
    ("variant", "runner", "n_samples"),
    [
        ("default512", AudioNTTRunner, 16000),
        ("default512", AudioNTTRunner, 27777),
        ("clstm", CLSTMRunner, 17777),
    ],
)
def test_shared_features_equal_those_of_frames_cut_first(
    monkeypatch, variant, runner, n_samples, frame_ms, hop_ms
):
    model = recipe_model(variant)
    clip = voice(6, n_samples)[None]
    n_shared = []
    as_it_was = runner._shared
    monkeypatch.setattr(
        runner, "_shared", lambda self, frames: n_shared.append(len(frames)) or as_it_was(self, frames)
    )
    embeddings, _ = get_timestamp_embeddings(clip, model, frame_ms, hop_ms)
    assert sum(n_shared) == embeddings.shape[1]
    monkeypatch.setattr(runner, "embed_frames", Runner.embed_frames)
    assert_close_to_peak(embeddings, get_timestamp_embeddings(clip, model, frame_ms, hop_ms)[0])


@pytest.mark.parametrize(("variant", "runner"), [("default512", AudioNTTRunner), ("clstm", CLSTMRunner)])
@pytest.mark.parametrize(
    ("frame_ms", "hop_ms"), [(1000, 33.3), (200, 10), (1000, 990), (90, 10), (1000, 1.0625)]
)
def test_frames_with_little_in_common_are_computed_apart(monkeypatch, variant, runner, frame_ms, hop_ms):
    model = recipe_model(variant)
    monkeypatch.setattr(runner, "_shared", lambda self, frames: pytest.fail("shared"))
    clip = voice(6, 8000 if hop_ms > 2 else 600)[None]
    embeddings, _ = get_timestamp_embeddings(clip, model, frame_ms, hop_ms)
    assert embeddings.isfinite().all()


# --- dense frames -------------------------------------------------------------------------------


def test_dense_frames_are_close_to_exact_ones():
    model = recipe_model("default512", normalization=(-6.0, 5.0))
    clip = voice(3, 32000)
    exact, times = get_timestamp_embeddings(clip[None], model)
    dense, dense_times = get_timestamp_embeddings(clip[None], model, dense=True)
    assert dense.shape == exact.shape
    assert torch.equal(times, dense_times)
    centred = [frames[0] - exact[0].mean(dim=0) for frames in (exact, dense)]
    similarity = torch.nn.functional.cosine_similarity(*centred)
    assert similarity.median() > 0.9


@pytest.mark.parametrize(("variant", "width"), [("default512", 12), ("resnetish34", 7)])
def test_dense_frames_pool_the_steps_of_the_padded_clip(variant, width):
    model = recipe_model(variant, normalization=(-6.0, 5.0))
    clip = voice(3, 20000)
    runner = make_runner(model)
    assert isinstance(runner, PooledRunner)
    with torch.no_grad():
        log_mel = model.frontend(torch.nn.functional.pad(clip, (8000, 8000))[None])
        steps = runner.features((log_mel + 6) / 5)[0]
    dense, _ = get_timestamp_embeddings(clip[None], model, 1000, 160, dense=True)
    for k in range(dense.shape[1]):  # 160 ms are two steps of the one, one of the other
        window = steps[k * 16 // runner.stride :][:width]
        assert_close_to_peak(dense[0, k], window.mean(dim=0) + window.amax(dim=0))


@pytest.mark.parametrize(("frame_ms", "hop_ms"), [(1000, 50), (30, 10), (333.3, 7.7), (5000, 1000)])
@pytest.mark.parametrize("n_samples", [1, 700, 17000])
def test_dense_takes_any_grid(frame_ms, hop_ms, n_samples):
    model = create_model("default", d=8)
    audio = voice(1, 17000)[None, :n_samples]
    dense, times = get_timestamp_embeddings(audio, model, frame_ms, hop_ms, dense=True)
    exact, exact_times = get_timestamp_embeddings(audio, model, frame_ms, hop_ms)
    assert dense.shape == exact.shape
    assert torch.equal(times, exact_times)
    assert dense.isfinite().all()


@pytest.mark.parametrize("dense", [False, True])
def test_frames_far_apart_are_some_of_those_that_lie_close(dense):
    """On a clip that goes through in several blocks and chunks."""
    model = create_model("default", d=8, normalization=(-6.0, 5.0))
    clip = voice(2, 16000 * 60)[None]
    close, _ = get_timestamp_embeddings(clip, model, 500, 1000, dense=dense)
    apart, times = get_timestamp_embeddings(clip, model, 500, 13000, dense=dense)
    assert times[0].tolist() == [13000.0 * k for k in range(5)]
    assert_close_to_peak(apart, close[:, ::13])


@pytest.mark.parametrize("hop_ms", [20, 5_000, 60_000])
def test_frames_that_are_cut_together_hold_samples_of_bounded_length(hop_ms):
    model, grid = create_model("default", d=8), FrameGrid(1000.0, float(hop_ms), 16000)
    clip = torch.zeros(16000 * 600)
    batches = list(cut_frames(lambda: split_into_blocks(clip), model, grid, Statistics(0.0, 1.0)))
    assert sum(map(len, batches)) == grid.n_frames(len(clip))
    assert max(len(batch.samples) for batch in batches) < 16000 * 180


@pytest.mark.parametrize("name", ["clstm", "cvt"])
def test_dense_is_for_convolutions(name):
    with pytest.raises(InvalidInputError, match="'default' and 'resnetish34'"):
        get_timestamp_embeddings(voice(1, 4000)[None], create_model(name), dense=True)
