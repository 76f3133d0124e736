"""Front ends: parity, agreement with each other, precision, gradients."""

import sys

import numpy as np
import pytest
import torch
from parity_data import FOLDER, MANIFEST, reference, waveform

from serab_byols import frontend as frontend_module
from serab_byols.errors import InvalidInputError, MissingExtraError
from serab_byols.frontend import FRONTENDS, create_frontend, hann_window, mel_filterbank

GOLDEN = FOLDER.parent / "golden" / "frontend_torchaudio_2_11.npz"
AUDIBLE = -8.0
"""Log-mel above which float32 leakage of a loud tone, 80 dB below its peak, plays no part."""

WAVEFORMS = [name for name in reference("frontend") if name not in ("mel_fb", "window")]
GOLDEN_NAMES = sorted(
    name.removesuffix("__waveform") for name in np.load(GOLDEN) if name.endswith("__waveform")
)


@pytest.fixture(params=list(FRONTENDS))
def front(request):
    """Every front end whose package imports here."""
    try:
        return create_frontend(request.param)
    except MissingExtraError as error:
        pytest.skip(str(error))


def assert_log_mel_close(actual, expected):
    """Tolerances of the parity numbers: tight where audible, wide at the floor."""
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-2)
    audible = expected > AUDIBLE
    torch.testing.assert_close(actual[audible], expected[audible], rtol=0, atol=5e-4)


def test_filterbank_and_window_equal_the_reference():
    np.testing.assert_allclose(mel_filterbank(), reference("frontend")["mel_fb"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(hann_window(), reference("frontend")["window"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", WAVEFORMS)
def test_log_mel_equals_the_reference(front, name):
    log_mel = front(waveform(name)[None])[0]
    assert log_mel.shape == tuple(MANIFEST["waveforms"][name]["logmel_shape"])
    expected = torch.from_numpy(reference("frontend")[name])
    assert_log_mel_close(log_mel, expected)
    if name.startswith(("voice", "noise", "silence", "short")):
        torch.testing.assert_close(log_mel, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_log_mel_equals_torchaudio(front, name):
    """Numbers that tests/golden/make_frontend_golden.py stored."""
    with np.load(GOLDEN) as golden:
        samples, expected = golden[f"{name}__waveform"], golden[f"{name}__log_mel"]
    assert_log_mel_close(front(torch.from_numpy(samples)[None])[0], expected)


def test_silence_gives_the_logarithm_of_the_offset(front):
    log_mel = front(torch.zeros(1, 4000))
    torch.testing.assert_close(log_mel, torch.full((1, 64, 26), -15.942385), rtol=0, atol=1e-5)


def test_power_of_a_sine_is_the_analytic_one(front):
    """A sine of amplitude a on a bin centre has power (a * sum(window) / 2)^2 there."""
    hz, amplitude = 1000.0, 0.25  # bin 64 exactly
    sine = amplitude * torch.sin(2 * torch.pi * hz * torch.arange(16000) / 16000)
    middle = front(sine[None])[0, :, 50].exp().sum()
    window, bank = hann_window(), mel_filterbank()
    # The window's transform at the neighbouring bins of the zero-padded FFT, by definition.
    k = np.arange(-40, 41)
    n = np.arange(400)
    transform = np.abs((window * np.exp(-2j * np.pi * k[:, None] * n / 1024)).sum(axis=1))
    expected = ((amplitude / 2 * transform) ** 2 @ bank[64 + k]).sum()
    assert middle.item() == pytest.approx(expected, rel=2e-3)


def test_frames_of_a_long_waveform_do_not_depend_on_the_blocks(monkeypatch):
    samples = torch.randn(2, 16000 * 3, generator=torch.Generator().manual_seed(0))
    whole = create_frontend("torch")(samples)
    monkeypatch.setattr(frontend_module, "_BLOCK_COLUMNS", 37)
    torch.testing.assert_close(create_frontend("torch")(samples), whole, rtol=0, atol=1e-5)


def test_buffers_move_but_are_not_saved_and_never_lose_precision(front):
    assert front.state_dict() == {}
    expected = front(waveform("voice_1s")[None])
    front.to(torch.bfloat16)
    assert front.dtype == torch.float32
    torch.testing.assert_close(front(waveform("voice_1s")[None].half()), expected, rtol=0, atol=0.2)
    torch.testing.assert_close(front(waveform("voice_1s")[None]), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(front(waveform("voice_1s")[None]), expected)
    assert front.double()(waveform("voice_1s")[None].double()).dtype == torch.float64


def test_gradient_reaches_every_sample_and_is_finite_in_silence(front):
    samples = torch.cat([waveform("voice_1s")[:4000], torch.zeros(4000)])[None].requires_grad_()
    front(samples).sum().backward()
    assert samples.grad.isfinite().all()
    assert (samples.grad[0, 200:3900] != 0).all()


@pytest.mark.parametrize("shape", [(16000,), (1, 1, 16000), (2, 512), (1, 0)])
def test_impossible_waveforms_are_refused(front, shape):
    with pytest.raises(InvalidInputError):
        front(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "module"), [("nnaudio", "nnAudio.features.stft"), ("torchaudio", "torchaudio.transforms")]
)
def test_the_error_of_a_missing_package_has_the_pip_line(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'serab-byols\[{name}\]'"):
        create_frontend(name)
