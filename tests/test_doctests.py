"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import serab_byols

CLIP = Path(__file__).resolve().parents[1] / "examples" / "clips" / "en_calm.flac"
NAMES = {"serab_byols": serab_byols, "np": np, "pandas": pandas, "torch": torch, "clip_path": CLIP}
LEAVES = ("serab_byols.pretrain.", "serab_byols.cli.", "serab_byols.__main__")


def documented() -> dict[str, doctest.DocTest]:
    """Examples of the core, by the name of what they document."""
    found = {}
    for info in pkgutil.walk_packages(serab_byols.__path__, "serab_byols."):
        if not info.name.startswith(LEAVES):
            module = importlib.import_module(info.name)
            for test in doctest.DocTestFinder(exclude_empty=True).find(module):
                if test.examples:
                    test.globs |= NAMES
                    found[test.name] = test
    return found


DOCUMENTED = documented()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_example(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    doctest.DocTestRunner().run(DOCUMENTED[name], out=lines.append)
    assert not lines, "".join(lines)


@pytest.mark.parametrize(
    "name", sorted({*serab_byols.__all__} - {"__version__", "SerabByolsError", "Record", "DatasetSummary"})
)
def test_every_public_function_has_an_example(name):
    documented = getattr(serab_byols, name)
    assert f"{documented.__module__}.{documented.__qualname__}" in DOCUMENTED


def test_a_wrong_example_is_seen():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner().run(wrong, out=lambda _: None).failed == 1
