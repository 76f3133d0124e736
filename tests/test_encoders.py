"""One suite over all encoders: parity, sizes, gradients, minimum lengths."""

import json

import numpy as np
import pytest
import torch
from parity_data import (
    MANIFEST,
    VARIANTS,
    encoder_input,
    recipe_config,
    recipe_model,
    recipe_state_dict,
    reference,
)

from serab_byols.encoders import ENCODERS, create_encoder
from serab_byols.errors import InvalidInputError

ATOL = 5e-5
OTHER_CVT = {"channels": [8, 16, 24], "heads": [1, 1, 2], "depths": [1, 2, 3], "mlp_ratio": 2}
variants = pytest.mark.parametrize("variant", VARIANTS)


@variants
def test_embeddings_equal_the_reference(variant):
    encoder = recipe_model(variant).encoder
    for index in range(len(MANIFEST["inputs"])):
        name, x = encoder_input(index)
        expected = torch.from_numpy(reference("encoders")[f"{variant}__{name}"])
        with torch.no_grad():
            torch.testing.assert_close(encoder(x), expected, rtol=0, atol=ATOL)


@variants
def test_state_dict_has_the_published_keys_and_shapes_in_order(variant):
    published, state = MANIFEST["encoders"][variant], recipe_state_dict(variant)
    with torch.device("meta"):
        encoder = create_encoder(published["model_name"], **recipe_config(variant))
    expected = [(entry["key"], tuple(entry["shape"])) for entry in published["state_dict"]]
    assert [(key, tuple(value.shape)) for key, value in encoder.state_dict().items()] == expected
    parameters = {entry["key"] for entry in published["state_dict"] if entry["parameter"]}
    assert {key for key, _ in encoder.named_parameters()} == parameters
    assert sum(parameter.numel() for parameter in encoder.parameters()) == published["n_parameters"]
    matches = [name for name, cls in ENCODERS.items() if cls.config_from_state_dict(state) is not None]
    assert matches == [published["model_name"]]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *((name, {}) for name in ENCODERS),
        ("default", {"d": 512}),
        ("default", {"d": 7}),
        ("cvt", OTHER_CVT),
        ("cvt", {"pool": "mean"}),
        ("cvt", {"pool": "max"}),
    ],
)
def test_width_and_config_are_those_of_the_weights(name, config):
    encoder = create_encoder(name, **config).eval()
    with torch.no_grad():
        width = encoder(torch.zeros(2, 1, 64, 32)).shape
    assert width == (2, encoder.embedding_size)
    assert encoder.scene_embedding_size == encoder.timestamp_embedding_size == encoder.embedding_size
    assert type(encoder.embedding_size) is int
    assert encoder.sample_rate == 16000
    again = type(encoder)(**encoder.config)
    assert again.state_dict().keys() == encoder.state_dict().keys()
    recognised = type(encoder).config_from_state_dict(encoder.state_dict())
    assert {**encoder.config, **recognised} == encoder.config
    assert encoder.config.keys() - recognised.keys() <= {"pool"}  # which has no weights


@pytest.mark.parametrize(
    ("name", "min_columns", "min_samples"),
    [("default", 8, 1120), ("resnetish34", 1, 513), ("clstm", 10, 1440), ("cvt", 1, 513)],
)
def test_minimum_lengths_are_those_of_the_specification(narrow, name, min_columns, min_samples):
    model = narrow(name)
    assert (model.encoder.min_columns, model.min_samples) == (min_columns, min_samples)
    with torch.no_grad():
        assert model.encoder(torch.randn(1, 1, 64, min_columns)).isfinite().all()
    with pytest.raises(InvalidInputError, match=rf"at least {min_columns} columns, got \(1, 1, 64, "):
        model.encoder(torch.randn(1, 1, 64, min_columns - 1))


@pytest.mark.parametrize("shape", [(1, 64, 96), (1, 2, 64, 96), (1, 1, 80, 96)])
def test_wrong_shapes_are_refused(narrow, shape):
    with pytest.raises(InvalidInputError, match="batch, 1, 64, columns"):
        narrow().encoder(torch.zeros(shape))


@pytest.mark.parametrize("name", list(ENCODERS))
def test_gradients_reach_every_parameter(narrow, name):
    encoder = narrow(name).encoder.train()
    encoder(torch.randn(3, 1, 64, 48)).square().sum().backward()
    without = {key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.any()}
    # At the last time step the backward direction has made one step from a zero state, by which its
    # recurrent matrix is multiplied: the published architecture leaves it without a gradient.
    assert without == ({"bilstm.weight_hh_l0_reverse"} if name == "clstm" else set())


def test_channel_norm_has_a_finite_gradient_where_the_variance_is_zero(narrow):
    encoder = narrow("cvt").encoder
    torch.nn.init.zeros_(encoder.layers[0][0].bias)
    x = torch.zeros(1, 1, 64, 32, requires_grad=True)
    encoder(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_cvt_mean_and_max_pool_over_the_same_features():
    kept, x = create_encoder("cvt", **OTHER_CVT).eval(), torch.randn(2, 1, 64, 48)
    with torch.no_grad():
        features = kept.layers(x)
        for pool, expected in (("mean", features.mean((2, 3))), ("max", features.amax((2, 3)))):
            pooled = create_encoder("cvt", pool=pool, **OTHER_CVT).eval()
            pooled.load_state_dict(kept.state_dict())
            torch.testing.assert_close(pooled(x), expected)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("audiontt", {}, "default, resnetish34, clstm, cvt"),
        ("default", {"width": 3}, "does not take"),
        (["cvt"], {}, "unknown encoder"),
        *(
            ("default", {"d": d}, "whole number from 1, got")
            for d in (0, -1, 1.5, float("nan"), "512", True, None)
        ),
        ("default", {"d": 10**30}, "does not take"),
        ("cvt", {"channels": (8, 8, 16.5)}, "whole numbers from 1"),
        ("cvt", {"mlp_ratio": float("nan")}, "whole numbers from 1"),
        ("cvt", {"channels": 8}, "does not take"),
        ("cvt", {"pool": "median"}, "mean\\+max, mean, max"),
        ("cvt", {"depths": (1, 1)}, "3 stages"),
    ],
)
def test_impossible_encoders_are_refused(name, config, message):
    with pytest.raises(InvalidInputError, match=message):
        create_encoder(name, **config)


def test_sizes_may_be_numbers_of_numpy():
    assert create_encoder("default", d=np.int64(8)).config == {"d": 8}
    config = create_encoder("cvt", channels=np.array([8, 8, 16]), heads=(1, 1, 1)).config
    assert json.loads(json.dumps(config))["channels"] == [8, 8, 16]
