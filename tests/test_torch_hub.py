"""The entry points of torch.hub, from a clone."""

import runpy
from importlib.metadata import requires

import pytest
import torch
from packaging.requirements import Requirement
from parity_data import ROOT

import serab_byols

ENTRY_POINTS = {"byols", "byols_untrained"}
AUDIO = torch.sin(torch.arange(8000) / 7.0)[None]


def load(name, *arguments, **options):
    return torch.hub.load(str(ROOT), name, *arguments, source="local", **options)


@pytest.fixture(scope="module")
def hubconf():
    return runpy.run_path(str(ROOT / "hubconf.py"))


def test_only_entry_points_are_listed(hubconf):
    """As torch.hub.list finds them: every public callable."""
    public = {name for name, value in hubconf.items() if callable(value) and not name.startswith("_")}
    assert public == ENTRY_POINTS
    for name in ENTRY_POINTS:
        assert "Args:" in hubconf[name].__doc__


def test_the_bundled_weights():
    model = load("byols", normalization="clip")
    expected = serab_byols.load_model(normalization="clip")
    assert model.resolved_normalization == "clip"
    torch.testing.assert_close(
        serab_byols.get_scene_embeddings(AUDIO, model),
        serab_byols.get_scene_embeddings(AUDIO, expected),
        rtol=0,
        atol=0,
    )


def test_other_weights(tiny_checkpoint):
    assert load("byols", str(tiny_checkpoint)).embedding_size == 16
    with pytest.raises(serab_byols.SerabByolsError, match="no weights named 'byols-2048'"):
        load("byols", "byols-2048")


def test_random_weights():
    assert load("byols_untrained", "default", d=64).embedding_size == 64


def test_the_dependencies_are_those_of_the_package(hubconf):
    declared = {Requirement(text) for text in requires("serab-byols")}
    core = {requirement.name for requirement in declared if requirement.marker is None}
    assert set(hubconf["dependencies"]) == core
