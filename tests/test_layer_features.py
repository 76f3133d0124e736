"""Features of the encoders' layers, and where they lie in time."""

from __future__ import annotations

import math

import pytest
import torch
from sounds import voice

from serab_byols import get_scene_embeddings
from serab_byols.encoders import ENCODERS, layer_features
from serab_byols.encoders.encoder import mean_max
from serab_byols.encoders.layer_geometry import WHOLE_CLIP, in_chunks
from serab_byols.errors import InvalidInputError

WIDTHS = {
    "default": {"conv1": 2048, "conv2": 1024, "conv3": 512, "fc1": 512, "fc2": 512},
    "resnetish34": dict.fromkeys(["stem", "layer1", "layer2", "layer3", "layer4"], 2048),
    "clstm": {"conv1": 7424, "conv2": 3584, "lstm": 1024},
    "cvt": {"stage1": 1024, "stage2": 2048, "stage3": 2048},
}
"""Published ones, and 512 for AudioNTT's linear layers."""

EVERY_LAYER = [(name, layer) for name, encoder in ENCODERS.items() for layer in encoder.feature_layers]
LOCAL_LAYERS = [
    (name, layer)
    for name, layer in EVERY_LAYER
    if ENCODERS[name].feature_layers[layer].receptive < WHOLE_CLIP
]


def clips(n_samples, n_clips=1):
    return torch.stack([torch.from_numpy(voice(seed, 2.0)) for seed in range(n_clips)])[:, :n_samples]


def noise(n_samples, n_clips=1):
    return torch.randn(n_clips, n_samples, generator=torch.Generator().manual_seed(0)) * 0.1


def assert_same(actual, expected, tolerance=1e-5):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("name", ENCODERS)
def test_embeddings_are_pooled_from_the_last_layer(narrow, name):
    model = narrow(name, normalization="clip")
    waveform = clips(20_000, 3)
    with torch.no_grad():
        features, _ = model.features(waveform)
        pooled = model.encoder.fc_final(features[:, -1]) if name == "clstm" else mean_max(features)
    assert features.dtype == torch.float32
    assert_same(pooled, get_scene_embeddings(waveform, model))


@pytest.mark.parametrize("name", ENCODERS)
def test_all_layers_at_once_are_the_layers_one_by_one(narrow, name):
    model = narrow(name, normalization="clip")
    with torch.no_grad():
        together = model.all_features(clips(17_000, 2))
        assert list(together) == list(WIDTHS[name])
        for layer, (features, times_ms) in together.items():
            alone, its_times_ms = model.features(clips(17_000, 2), layer)
            assert_same(alone, features)
            assert times_ms.dtype == torch.float32
            assert times_ms.tolist() == its_times_ms.tolist()
            assert times_ms.shape == features.shape[1:2]


@pytest.mark.parametrize("name", ENCODERS)
def test_published_widths(name):
    config = {"d": 512} if name == "default" else {}
    with torch.device("meta"):
        encoder = ENCODERS[name](**config).eval()
        features = layer_features.layer_features(encoder, torch.zeros(2, 1, 64, 40), list(WIDTHS[name]))
    assert {layer: steps.shape[2] for layer, steps in features.items()} == WIDTHS[name]


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("n_columns", [95, 96, 97, 700])
def test_chunks_give_the_features_of_the_whole(narrow, monkeypatch, name, n_columns):
    model = narrow(name, normalization="clip")
    waveform = noise(160 * (n_columns - 1) + 80, 2)
    with torch.no_grad():
        whole = model.all_features(waveform)
        monkeypatch.setattr(layer_features, "CHUNK_COLUMNS", 48)
        for layer, (features, _) in model.all_features(waveform).items():
            assert_same(features, whole[layer][0])


def test_a_halo_that_is_too_short_would_be_seen(narrow, monkeypatch):
    model = narrow(normalization="clip")
    with torch.no_grad():
        whole, _ = model.features(noise(32_000))
        monkeypatch.setattr(layer_features, "CHUNK_COLUMNS", 48)
        monkeypatch.setattr(
            layer_features, "in_chunks", lambda n, size, before, after: in_chunks(n, size, 0, after)
        )
        cut, _ = model.features(noise(32_000))
    assert (cut - whole).abs().max() > 1e-3 * whole.abs().max()


@pytest.mark.parametrize("name", ENCODERS)
def test_clips_do_not_influence_each_other(narrow, monkeypatch, name):
    model = narrow(name, normalization="clip")
    waveform = noise(9000, 5)
    with torch.no_grad():
        together, _ = model.features(waveform)
        alone, _ = model.features(waveform[3:4])
        assert_same(together[3:4], alone)
        monkeypatch.setattr(layer_features, "CHUNK_COLUMNS", 120)  # two clips at once
        parts, _ = model.features(waveform)
    assert_same(parts, together)


@pytest.mark.parametrize(("name", "layer"), LOCAL_LAYERS)
def test_receptive_fields_are_as_wide_as_they_say(narrow, name, layer):
    """A step's gradient is not zero at the columns of its receptive field alone, and is centred there."""
    encoder = narrow(name).encoder.double()
    geometry = encoder.feature_layers[layer]
    x = torch.randn(1, 1, 64, 1000, dtype=torch.float64, requires_grad=True)
    (steps,) = layer_features.layer_features(encoder, x, [layer]).values()
    step = steps.shape[1] // 2
    (gradient,) = torch.autograd.grad(steps[0, step].square().sum(), x)
    columns = gradient[0, 0].abs().amax(dim=0).nonzero()[:, 0]
    first, last = (
        geometry.centre + step * geometry.stride + torch.tensor([-0.5, 0.5]) * (geometry.receptive - 1)
    )
    assert columns[0] >= first
    assert columns[-1] <= last
    # A maximum passes its gradient to one of its inputs, so that not every column need have one.
    assert len(columns) > 0.5 * geometry.receptive
    assert abs((columns[0] + columns[-1]) / 2 - (first + last) / 2) <= 0.1 * geometry.receptive


def test_times_follow_the_sound(narrow):
    """Steps that change with a click lie around it, within half a receptive field."""
    model = narrow(normalization=(-6.0, 5.0))
    waveform = noise(32_000)
    clicked = waveform.clone()
    clicked[0, 16_000] += 5.0  # at 1000 ms
    for layer, geometry in model.feature_layers.items():
        with torch.no_grad():
            features, times_ms = model.features(waveform, layer)
            changed = (model.features(clicked, layer)[0] != features).any(dim=2)[0]
        assert changed.any()
        assert (times_ms[changed] - 1000).abs().max() <= geometry.receptive_ms / 2


def test_geometry_of_the_last_layers():
    last = {name: list(encoder.feature_layers.values())[-1] for name, encoder in ENCODERS.items()}
    assert {name: (layer.stride_ms, layer.receptive_ms) for name, layer in last.items()} == {
        "default": (80.0, 235.0),
        "resnetish34": (160.0, 4545.0),
        "clstm": (40.0, math.inf),
        "cvt": (160.0, math.inf),
    }
    assert {name: layer.times_ms(2).tolist() for name, layer in last.items()} == {
        "default": [35.0, 115.0],
        "resnetish34": [0.0, 160.0],
        "clstm": [45.0, 85.0],
        "cvt": [0.0, 160.0],
    }


def test_gradients_reach_the_samples_and_modes_stay(narrow):
    model = narrow("clstm", normalization="clip").train()
    waveform = clips(8000, 2).requires_grad_()
    features, _ = model.features(waveform)
    features.square().mean().backward()
    assert waveform.grad.abs().sum() > 0
    assert model.training
    assert not torch.equal(model.features(waveform)[0], model.eval().features(waveform)[0])


def test_half_precision_gives_float32(narrow):
    model = narrow(normalization="clip").to(torch.bfloat16)
    with torch.no_grad():
        features, _ = model.features(clips(8000))
    assert features.dtype == torch.float32


def test_short_clips_are_padded(narrow):
    model = narrow(normalization="clip")
    with torch.no_grad():
        assert_same(model.features(clips(100))[0], model.features(model.pad_short(clips(100)))[0], 0)


def test_no_clips_have_no_features(narrow):
    features, times_ms = narrow(normalization="clip").features(torch.zeros(0, 16_000))
    assert features.shape == (0, 12, 8)
    assert len(times_ms) == 12


def test_what_cannot_be_had_is_refused(narrow):
    with pytest.raises(
        InvalidInputError, match=r"'default' encoder has no layer 'conv9'; it has conv1, conv2"
    ):
        narrow().features(clips(8000), "conv9")
    with pytest.raises(InvalidInputError, match=r"shape \(batch, samples\)"):
        narrow().features(clips(8000)[0])
    other = narrow()
    other.encoder.feature_layers = {}  # as of an encoder that does not have any
    with pytest.raises(InvalidInputError, match="it has none with features"):
        other.features(clips(8000))
