"""The model object: a plain module from waveform to embedding."""

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
from parity_data import assert_close_to_peak, speech

from serab_byols import (
    ByolsModel,
    create_model,
    get_scene_embeddings,
    get_timestamp_embeddings,
    load_model,
)
from serab_byols.encoders import ENCODERS
from serab_byols.errors import InvalidInputError

encoders = pytest.mark.parametrize("name", list(ENCODERS))


@encoders
def test_forward_is_front_end_normalization_encoder(narrow, name):
    model = narrow(name)
    assert isinstance(model, torch.nn.Module)
    assert not model.training
    for attribute in ("sample_rate", "embedding_size", "scene_embedding_size", "timestamp_embedding_size"):
        assert type(getattr(model, attribute)) is int
    assert model.sample_rate == 16000
    clips = torch.stack([speech(1, 8000), speech(2, 8000)])
    with torch.no_grad():
        log_mel = model.frontend(clips)
        assert log_mel.shape == (2, 64, 51)
        normalized = (log_mel - log_mel.mean((1, 2), keepdim=True)) / log_mel.std((1, 2), keepdim=True)
        embeddings = model(clips)
        assert embeddings.shape == (2, model.embedding_size)
        assert_close_to_peak(embeddings, model.encoder(normalized[:, None]), 3e-5)
    assert set(model.state_dict()) == {f"encoder.{key}" for key in model.encoder.state_dict()}


@encoders
def test_gradients_reach_the_samples(narrow, name):
    clip = speech(1, 8000)[None].requires_grad_()
    narrow(name)(clip).square().sum().backward()
    assert clip.grad.isfinite().all()
    assert (clip.grad != 0).float().mean() > 0.9


def test_gradient_is_that_of_finite_differences(narrow):
    model = narrow(normalization=(-6.0, 5.0)).double()
    clip = speech(1, 1200)[None].double()
    direction = torch.randn(clip.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaf = clip.clone().requires_grad_()
    model(leaf).sum().backward()
    slope = (leaf.grad * direction).sum()
    step = 1e-7
    with torch.no_grad():
        rise = model(clip + step * direction).sum() - model(clip - step * direction).sum()
    torch.testing.assert_close(slope, rise / (2 * step), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rule", ["clip", "batch", "hear2021", (-6.0, 5.0)])
def test_forward_and_the_scene_function_agree(narrow, rule):
    model = narrow(normalization=rule)
    clips = torch.stack([speech(1, 8000), speech(2, 8000) / 10])
    with torch.no_grad():
        assert_close_to_peak(get_scene_embeddings(clips, model), model(clips))


def test_normalization_can_be_changed_and_is_checked(narrow):
    model = narrow()
    model.normalization = [-6, 5]
    assert model.normalization == (-6.0, 5.0)
    with pytest.raises(InvalidInputError, match="auto, clip, batch, hear2021"):
        model.normalization = "minmax"
    assert model.normalization == (-6.0, 5.0)


def test_repr_names_encoder_weights_rule_and_sizes():
    text = repr(create_model("default", d=512, normalization=(-6.0, 5.0)))
    for part in ("AudioNTT", "d=512", "600,192", "16000 Hz", "torch", "(-6, 5)", "512)", "random weights"):
        assert part in text
    assert "auto, here clip" in repr(create_model("cvt"))


@pytest.mark.filterwarnings("ignore:.*weights_only=False:FutureWarning")  # torch 2.4 of its own unpickling
def test_copies_and_pickles_are_equal(narrow):
    model, clip = narrow(), speech(1, 8000)[None]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(twin, ByolsModel)
        torch.testing.assert_close(twin(clip), model(clip))


@pytest.mark.parametrize("waveform", [torch.zeros(16000), torch.zeros(1, 0), torch.zeros(1, 100).int()])
def test_impossible_waveforms_are_refused(narrow, waveform):
    with pytest.raises(InvalidInputError, match="batch, samples"):
        narrow()(waveform)


def test_what_is_no_dense_tensor_is_refused(narrow):
    model, clips = narrow(), torch.zeros(1, 16000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both are deprecated, or not finished
        nested = torch.nested.nested_tensor([torch.zeros(16000)])
        quantised = torch.quantize_per_tensor(clips, 0.1, 0, torch.qint8)
    for waveform in (nested, quantised, clips.to_sparse(), clips.to("meta")):
        with pytest.raises(InvalidInputError, match="ordinary dense tensor"):
            model(waveform)
    for waveform in (clips.numpy(), [0.0], "a.wav", None):
        with pytest.raises(InvalidInputError, match=f"must be a tensor, got {type(waveform).__name__}"):
            model(waveform)


@pytest.mark.parametrize("rule", ["clip", "batch", (-6.0, 5.0)])
def test_no_clips_have_no_embeddings(narrow, rule):
    model = narrow(normalization=rule)
    clips = torch.zeros(0, 16000)
    for embeddings in (model(clips), get_scene_embeddings(clips, model)):
        assert (embeddings.shape, embeddings.dtype) == ((0, 8), torch.float32)
    assert model.to(torch.bfloat16)(clips).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_point_type_is_taken_everywhere(narrow, dtype):
    model = narrow()
    clips = speech(1, 8000)[None].to(dtype)
    with torch.no_grad():
        pairs = [
            (model(clips), model(clips.float())),
            *(
                (embed(clips), embed(clips.float()))
                for embed in (
                    lambda audio: get_scene_embeddings(audio, model),
                    lambda audio: get_scene_embeddings(list(audio), model),
                    lambda audio: get_timestamp_embeddings(audio, model, 200, 100)[0],
                    lambda audio: get_timestamp_embeddings(audio, model, 200, 100, dense=True)[0],
                )
            ),
        ]
    for actual, expected in pairs:
        assert actual.dtype == torch.float32
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("meta", "'meta': it holds no numbers"),
        (torch.device("meta"), "'meta': it holds no numbers"),
        ("cuda:99", "'cuda:99': .*"),
        ("banana", "'banana': .*"),
        (None, "'None': .*"),
    ],
)
def test_devices_that_are_not_here_are_refused(device, message, tiny_checkpoint):
    for make in (create_model, partial(load_model, tiny_checkpoint)):
        with pytest.raises(InvalidInputError, match=rf"^cannot use device {message}\. Here there is: cpu"):
            make(device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_here_is_refused_before_the_weights_are_read(monkeypatch):
    monkeypatch.delattr("serab_byols.checkpoint.loading.read_checkpoint")
    with pytest.raises(InvalidInputError, match=r"cannot use device 'cuda': .*Here there is: cpu"):
        load_model(device="cuda")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "vggish"}, "default, resnetish34"),
        ({"frontend": "mel"}, "torch, nnaudio, torchaudio"),
        ({"normalization": "x"}, "normalization"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_impossible_options_are_refused(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        create_model(**arguments)


def test_a_tiny_training_lowers_its_loss(narrow):
    model = narrow(normalization=(-6.0, 5.0)).train()
    head = torch.nn.Linear(8, 2)
    labels = torch.arange(8) % 2
    clips = torch.stack([speech(seed, 4000) * (1.0 if seed % 2 else 0.01) for seed in range(8)])
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(head(model(clips)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
