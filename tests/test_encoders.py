"""One suite over all encoders: parity, sizes, gradients, minimum lengths."""

import pytest
import torch
from parity_data import (
    MANIFEST,
    VARIANTS,
    encoder_input,
    recipe_encoder,
    recipe_state_dict,
    reference,
)

from serab_byols.encoders import ENCODERS, create_encoder
from serab_byols.errors import InvalidInputError

ATOL = 5e-5
N_INPUTS = len(MANIFEST["inputs"])
variants = pytest.mark.parametrize("variant", VARIANTS)
encoders = pytest.mark.parametrize("name", list(ENCODERS))


@variants
@pytest.mark.parametrize("index", range(N_INPUTS))
def test_embedding_equals_the_reference(variant, index):
    name, x = encoder_input(index)
    with torch.no_grad():
        y = recipe_encoder(variant)(x)
    expected = torch.from_numpy(reference("encoders")[f"{variant}__{name}"])
    torch.testing.assert_close(y, expected, rtol=0, atol=ATOL)


@variants
def test_state_dict_has_the_published_keys_and_shapes_in_order(variant):
    encoder = recipe_encoder(variant)
    expected = [
        (entry["key"], tuple(entry["shape"])) for entry in MANIFEST["encoders"][variant]["state_dict"]
    ]
    assert [(key, tuple(value.shape)) for key, value in encoder.state_dict().items()] == expected
    parameters = {entry["key"] for entry in MANIFEST["encoders"][variant]["state_dict"] if entry["parameter"]}
    assert {key for key, _ in encoder.named_parameters()} == parameters
    n_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    assert n_parameters == MANIFEST["encoders"][variant]["n_parameters"]


@variants
def test_weights_are_recognised_as_one_encoder_only(variant):
    state = recipe_state_dict(variant)
    matches = [name for name, cls in ENCODERS.items() if cls.config_from_state_dict(state) is not None]
    assert matches == [MANIFEST["encoders"][variant]["model_name"]]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *((name, {}) for name in ENCODERS),
        ("default", {"d": 512}),
        ("default", {"d": 7}),
        ("cvt", {"channels": [8, 16, 24], "heads": [1, 1, 2], "depths": [1, 2, 3], "mlp_ratio": 2}),
        ("cvt", {"pool": "mean"}),
        ("cvt", {"pool": "max"}),
    ],
)
def test_declared_width_is_the_real_width(name, config):
    encoder = create_encoder(name, **config).eval()
    with torch.no_grad():
        width = encoder(torch.zeros(2, 1, 64, 32)).shape
    assert width == (2, encoder.embedding_size)
    assert encoder.scene_embedding_size == encoder.timestamp_embedding_size == encoder.embedding_size
    assert type(encoder.embedding_size) is int
    assert encoder.sample_rate == 16000
    again = type(encoder)(**encoder.config)
    assert again.state_dict().keys() == encoder.state_dict().keys()


def test_config_of_another_cvt_is_read_off_its_weights():
    config = {"channels": [8, 16, 24], "heads": [1, 1, 2], "depths": [1, 2, 3], "mlp_ratio": 2}
    state = create_encoder("cvt", **config).state_dict()
    assert ENCODERS["cvt"].config_from_state_dict(state) == config


@pytest.mark.parametrize(("name", "minimum"), [("default", 8), ("resnetish34", 1), ("clstm", 10), ("cvt", 1)])
def test_minimum_number_of_frames(name, minimum):
    encoder = create_encoder(name).eval()
    assert encoder.min_columns == minimum
    with torch.no_grad():
        assert encoder(torch.randn(1, 1, 64, minimum)).isfinite().all()
    if minimum > 1:
        with pytest.raises(
            InvalidInputError, match=rf"at least {minimum} frames, got \(1, 1, 64, {minimum - 1}\)"
        ):
            encoder(torch.randn(1, 1, 64, minimum - 1))


@encoders
@pytest.mark.parametrize("shape", [(1, 64, 96), (1, 2, 64, 96), (1, 1, 80, 96)])
def test_wrong_shapes_are_named(name, shape):
    with pytest.raises(InvalidInputError, match="batch, 1, 64, frames"):
        create_encoder(name)(torch.zeros(shape))


@encoders
def test_gradients_reach_every_parameter(name):
    torch.manual_seed(0)
    encoder = create_encoder(name).train()
    encoder(torch.randn(3, 1, 64, 48)).square().sum().backward()
    without = {key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.any()}
    # At the last time step the backward direction has made one step from a zero state, by which its
    # recurrent matrix is multiplied: the published architecture leaves it without a gradient.
    assert without == ({"bilstm.weight_hh_l0_reverse"} if name == "clstm" else set())


def test_channel_norm_has_a_finite_gradient_where_the_variance_is_zero():
    encoder = create_encoder("cvt").eval()
    torch.nn.init.zeros_(encoder.layers[0][0].bias)
    x = torch.zeros(1, 1, 64, 32, requires_grad=True)
    encoder(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_cvt_mean_and_max_pool_over_the_same_features():
    torch.manual_seed(0)
    kept = create_encoder("cvt").eval()
    x = torch.randn(2, 1, 64, 48)
    with torch.no_grad():
        features = kept.layers(x)
        for pool, expected in (("mean", features.mean((2, 3))), ("max", features.amax((2, 3)))):
            pooled = create_encoder("cvt", pool=pool).eval()
            pooled.load_state_dict(kept.state_dict())
            torch.testing.assert_close(pooled(x), expected)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("audiontt", {}, "default, resnetish34, clstm, cvt"),
        ("default", {"width": 3}, "does not take"),
        ("default", {"d": -1}, "at least 1, got -1"),
        ("default", {"d": 0}, "at least 1, got 0"),
        ("default", {"d": "wide"}, "does not take"),
        ("cvt", {"pool": "median"}, "mean\\+max, mean, max"),
        ("cvt", {"depths": (1, 1)}, "3 stages"),
    ],
)
def test_impossible_encoders_are_refused(name, config, message):
    with pytest.raises(InvalidInputError, match=message):
        create_encoder(name, **config)
