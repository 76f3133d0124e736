"""Fixtures that several files share."""

import shutil
from pathlib import Path

import pytest
import torch

import serab_byols
from serab_byols.encoders import audiontt, clstm, resnetish
from serab_byols.inference.runners import module_runner

NARROW_CONFIGS = {
    "default": {"d": 8},
    "cvt": {"channels": [8, 16, 24], "heads": [1, 1, 2], "depths": [1, 1, 1], "mlp_ratio": 2},
}
NARROW_CONSTANTS = (
    (audiontt, {"CHANNELS": 8, "FEATURES": 64}),
    (clstm, {"CHANNELS": 8, "HIDDEN": 16}),
    (resnetish, {"STEM_CHANNELS": 4, "LAYERS": ((4, 3), (8, 4), (16, 6), (16, 3))}),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with the example clips where they are in a clone."""
    clips = Path("examples", "clips")
    shutil.copytree(Path(__file__).resolve().parents[1] / clips, tmp_path / clips)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def one_thread():
    """Keeps torch to one thread: for tiny models more of them cost more than they bring."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def narrow(monkeypatch):
    """As ``create_model``, but with few channels and with batch norms that are not the identity."""

    def make(name="default", **options):
        torch.manual_seed(0)
        model = serab_byols.create_model(name, **NARROW_CONFIGS.get(name, {}), **options)
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            for values, low, high in (
                (norm.running_mean, -0.3, 0.3),
                (norm.running_var, 0.5, 1.5),
                (norm.weight, 0.5, 1.5),
                (norm.bias, -0.3, 0.3),
            ):
                torch.nn.init.uniform_(values, low, high)
        return model

    for module, constants in NARROW_CONSTANTS:
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    module_runner._original_layers.cache_clear()
    yield make
    module_runner._original_layers.cache_clear()
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="session")
def tiny_model():
    """A small encoder with random weights; tests must not change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return serab_byols.create_model("default", d=16)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_model, tmp_path_factory):
    """Path of ``tiny_model`` saved to a file."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    return serab_byols.save_checkpoint(tiny_model, path)
