"""Fixtures that several files share."""

import pytest
import torch

import serab_byols


@pytest.fixture(scope="module")
def one_thread():
    """Keeps torch to one thread: for tiny models more of them cost more than they bring."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
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
