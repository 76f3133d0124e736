"""Folded weights that are kept between calls: made once, never stale, and nobody's but the layer's."""

import copy
import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from parity_data import assert_close_to_peak, speech
from torch import nn

from serab_byols import create_model, get_scene_embeddings
from serab_byols.encoders import ENCODERS
from serab_byols.inference.runners import make_runner, prepared_weights
from serab_byols.inference.runners.module_runner import ModuleRunner

CLIP = speech(1, 4000)[None]
N_CONVOLUTIONS = {"default": 3, "resnetish34": 36, "clstm": 2, "cvt": 9}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def n_folded(monkeypatch):
    """How many convolutions were prepared, as the length of a list."""
    original, calls = prepared_weights._folded, []
    monkeypatch.setattr(
        prepared_weights, "_folded", lambda sources: calls.append(sources) or original(sources)
    )
    return calls


def layer_pairs(model):
    """Every convolution with the batch norm after it."""
    layers = [module for module in model.encoder.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    return [(conv, norm) for conv, norm in pairwise(layers) if isinstance(norm, nn.BatchNorm2d)]


def expected(model):
    """By the encoder's own code."""
    return ModuleRunner(model.encoder)(model._encoder_input(CLIP)[:, 0])


# --- once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ENCODERS))
def test_weights_are_prepared_once(narrow, n_folded, name):
    model = narrow(name)
    embeddings = [get_scene_embeddings(CLIP, model) for _ in range(3)]
    assert len(n_folded) == N_CONVOLUTIONS[name]
    assert torch.equal(embeddings[0], embeddings[1])
    assert torch.equal(embeddings[0], embeddings[2])


def test_only_the_layer_that_changed_is_prepared_again(narrow, n_folded):
    model = narrow("resnetish34")
    get_scene_embeddings(CLIP, model)
    n_folded.clear()
    model.encoder.layer3[2].conv1.weight.data.mul_(2)
    get_scene_embeddings(CLIP, model)
    assert len(n_folded) == 1


def test_devices_and_kinds_of_tensors_that_cannot_be_compared_are_prepared_anew(narrow, n_folded):
    class Own(nn.Parameter):
        pass

    model = narrow()
    model.encoder.features[4].weight = Own(model.encoder.features[4].weight)
    first, second = get_scene_embeddings(CLIP, model), get_scene_embeddings(CLIP, model)
    assert len(n_folded) == 4
    assert torch.equal(first, second)
    assert not prepared_weights._is_comparable(torch.zeros(1, device="meta"))


def test_a_model_that_leaves_the_cpu_takes_no_memory_there(narrow):
    model = narrow()
    make_runner(model)
    conv, norm = layer_pairs(model)[0]
    assert conv in prepared_weights._KEPT
    prepared_weights.fold_batch_norm(conv.to("meta"), norm.to("meta"))
    assert conv not in prepared_weights._KEPT


# --- never stale ----------------------------------------------------------------------------------


def write_in_place(conv, norm):
    conv.weight[1].neg_()


def write_through_data(conv, norm):
    conv.weight.data[1].neg_()


def write_through_detach(conv, norm):
    conv.weight.detach()[1].neg_()


def write_through_numpy(conv, norm):
    conv.weight.numpy()[1] *= -1


def write_in_inference_mode(conv, norm):
    with torch.inference_mode():
        conv.weight[1].neg_()


def write_through_storage(conv, norm):
    flat = torch.empty(0).set_(conv.weight.untyped_storage())
    flat[len(flat) // 2 :].neg_()


def exchange_channels(conv, norm):
    """Sums of the weights stay as they are."""
    conv.weight.copy_(conv.weight.flip(0))
    norm.weight.copy_(norm.weight.flip(0))


def change_one_weight_a_little(conv, norm):
    conv.weight.view(-1)[-1].mul_(1 + 1e-6)


def assign_data(conv, norm):
    conv.weight.data = -conv.weight.data


def assign_parameter(conv, norm):
    conv.weight = nn.Parameter(-conv.weight)


def assign_state(conv, norm):
    conv.load_state_dict({key: -value for key, value in conv.state_dict().items()}, assign=True)


def load_state(conv, norm):
    norm.load_state_dict({key: value * 0.9 for key, value in norm.state_dict().items()})


def update_running_mean(conv, norm):
    """Batch norm in training: a kernel writes these buffers."""
    norm.train()(torch.randn(4, norm.num_features, 2, 2))
    norm.eval()


def update_running_mean_without_the_module(conv, norm):
    nn.functional.batch_norm(
        torch.randn(4, norm.num_features, 2, 2), norm.running_mean, norm.running_var, training=True
    )


def assign_buffer(conv, norm):
    norm.running_mean = norm.running_mean + 1


@torch.enable_grad()
def step(optimizer, **options):
    def change(conv, norm):
        parameters = [*conv.parameters(), *norm.parameters()]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer(parameters, lr=0.1, **options).step()

    change.__name__ = f"{optimizer.__name__}_{'_'.join(options) or 'plain'}"
    return change


CHANGES = [
    write_in_place,
    write_through_data,
    write_through_detach,
    write_through_numpy,
    write_in_inference_mode,
    write_through_storage,
    exchange_channels,
    change_one_weight_a_little,
    assign_data,
    assign_parameter,
    assign_state,
    load_state,
    update_running_mean,
    update_running_mean_without_the_module,
    assign_buffer,
    step(torch.optim.SGD),
    step(torch.optim.AdamW),
    step(torch.optim.AdamW, foreach=True),
    step(torch.optim.AdamW, fused=True),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["default", "resnetish34", "cvt"])
def test_never_stale(narrow, n_folded, name, change):
    model = narrow(name)
    before = get_scene_embeddings(CLIP, model)
    n_folded.clear()
    change(*layer_pairs(model)[1])
    after = get_scene_embeddings(CLIP, model)
    assert len(n_folded) == 1
    assert_close_to_peak(after, expected(model), 2e-5)
    if change is not change_one_weight_a_little:
        assert (after - before).abs().max() > 1e-4 * before.abs().max()


def test_never_stale_after_another_eps(n_folded):
    """Encoders with another one are run by their own code; the folding does not rely on that."""
    conv, norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3).eval()
    weights = []
    for eps in (0.1, 0.1, 0.5):
        norm.eps = eps
        weights.append(prepared_weights.fold_batch_norm(conv, norm)[0])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert len(n_folded) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_never_stale_after_a_change_of_type_and_back(narrow, dtype):
    model = narrow("resnetish34")
    before = get_scene_embeddings(CLIP, model)
    model.to(dtype)
    tolerance = 3e-2 if dtype.itemsize < 4 else 1e-5
    assert_close_to_peak(get_scene_embeddings(CLIP, model), expected(model), tolerance)
    model.float()
    assert_close_to_peak(get_scene_embeddings(CLIP, model), before, 3e-2)


def test_never_stale_after_another_memory_format(narrow, n_folded):
    model = narrow("resnetish34")
    before = get_scene_embeddings(CLIP, model)
    model.to(memory_format=torch.channels_last)
    assert torch.equal(get_scene_embeddings(CLIP, model), before)
    n_folded.clear()
    model.encoder.conv1.weight.data[0] += 1
    assert_close_to_peak(get_scene_embeddings(CLIP, model), expected(model), 2e-5)
    assert len(n_folded) == 1


def test_weights_without_a_version_counter(narrow):
    with torch.inference_mode():
        model = create_model("cvt", channels=[8, 16, 24], heads=[1, 1, 2])
        before = get_scene_embeddings(CLIP, model)
        conv, _ = layer_pairs(model)[1]
        assert conv.weight.is_inference()
        conv.weight.mul_(3)
        after = get_scene_embeddings(CLIP, model)
        assert_close_to_peak(after, expected(model), 2e-5)
    assert (after - before).abs().max() > 1e-4 * before.abs().max()
    assert not get_scene_embeddings(CLIP, model).is_inference()


def test_weights_of_a_functional_call(narrow):
    model = narrow()
    before = get_scene_embeddings(CLIP, model)

    class Embed(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            return get_scene_embeddings(CLIP, self.model)

    other = {"model." + key: value * 0.9 for key, value in model.named_parameters()}
    called = torch.func.functional_call(Embed(), other, ())
    assert (called - before).abs().max() > 1e-3 * before.abs().max()
    assert torch.equal(get_scene_embeddings(CLIP, model), before)


def test_nan_in_the_weights_is_seen_and_leaves_again(narrow):
    model = narrow()
    before = get_scene_embeddings(CLIP, model)
    weight = model.encoder.features[0].weight
    value = float(weight[0, 0, 0, 0])
    weight.data[0, 0, 0, 0] = float("nan")
    assert get_scene_embeddings(CLIP, model).isnan().any()
    weight.data[0, 0, 0, 0] = value
    assert torch.equal(get_scene_embeddings(CLIP, model), before)


# --- the layer's alone ----------------------------------------------------------------------------


def test_modules_know_nothing_of_it(narrow):
    model = narrow("resnetish34")
    entries = {key: id(value) for key, value in vars(model.encoder.conv1).items()}
    keys, size = list(model.state_dict()), len(pickle.dumps(model))
    get_scene_embeddings(CLIP, model)
    assert {key: id(value) for key, value in vars(model.encoder.conv1).items()} == entries
    assert len(pickle.dumps(model)) == size
    assert list(model.state_dict()) == keys


def test_copies_and_pickles_have_weights_of_their_own(narrow):
    model = narrow()
    before = get_scene_embeddings(CLIP, model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(get_scene_embeddings(CLIP, other), before)
        other.encoder.features[0].weight.data.mul_(3)
        assert_close_to_peak(get_scene_embeddings(CLIP, other), expected(other), 2e-5)
    assert torch.equal(get_scene_embeddings(CLIP, model), before)


def test_it_goes_with_the_model(narrow):
    gc.collect()
    n_before = len(prepared_weights._KEPT)
    model = narrow()
    get_scene_embeddings(CLIP, model)
    assert len(prepared_weights._KEPT) == n_before + N_CONVOLUTIONS["default"]
    del model
    gc.collect()
    assert len(prepared_weights._KEPT) == n_before


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_ordinary_tensors_without_a_graph_are_kept(narrow, mode):
    model = narrow()
    with mode():
        make_runner(model)
    kept = prepared_weights._KEPT[model.encoder.features[0]]
    for tensor in (*kept.folded, *kept.sources.tensors):
        assert not tensor.requires_grad
        assert not tensor.is_inference()


def test_a_write_between_copying_and_folding_tears_nothing(narrow, monkeypatch):
    """As of an optimiser in another thread, which is undone later."""
    model = narrow()
    weight = model.encoder.features[0].weight
    before, copied = expected(model), prepared_weights._Sources.copied

    def copied_then_written(sources):
        copies = copied(sources)
        weight.data.mul_(2)
        return copies

    with monkeypatch.context() as patch:
        patch.setattr(prepared_weights._Sources, "copied", copied_then_written)
        make_runner(model)
    weight.data.div_(2**3)  # once for each convolution
    assert_close_to_peak(get_scene_embeddings(CLIP, model), before)


def test_threads_embed_while_another_trains(narrow):
    """Embeddings may be of weights in between; afterwards all are those of the last ones."""
    model, stop = narrow("resnetish34"), threading.Event()
    states = [{key: value.clone() for key, value in model.encoder.state_dict().items()}]
    states.append({key: value * 0.9 for key, value in states[0].items()})

    def train():
        with torch.no_grad():
            while not stop.is_set():
                for state in states:
                    for key, value in model.encoder.state_dict().items():
                        value.copy_(state[key])

    def embed(_):
        return [get_scene_embeddings(CLIP, model) for _ in range(8)]

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            results = list(pool.map(embed, range(3)))
    finally:
        stop.set()
        trainer.join()
    assert all(embedding.isfinite().all() for embeddings in results for embedding in embeddings)
    for _ in range(2):
        assert_close_to_peak(get_scene_embeddings(CLIP, model), expected(model), 2e-5)
    for conv, _ in layer_pairs(model):  # what is kept was made from what it is compared with
        kept = prepared_weights._KEPT[conv]
        weight, bias = prepared_weights._folded(kept.sources)
        assert torch.equal(kept.folded[0], weight)
        assert torch.equal(kept.folded[1], bias)
