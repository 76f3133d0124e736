"""The parity numbers in ``tests/parity`` and the weights and waveforms they were made with."""

from __future__ import annotations

import functools
import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from serab_byols import ByolsModel
from serab_byols.encoders import ENCODERS, create_encoder
from serab_byols.frontend import create_frontend

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(__file__).resolve().parent / "parity"
PUBLISHED_512 = (
    ROOT.parent / "shared/checkpoints/default512_BYOLAs64x96-2107281850-e100-bs256-lr0003-rs42.pth"
)
MANIFEST: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text())

recipe = SimpleNamespace(**runpy.run_path(str(FOLDER / "recipe.py")))

VARIANTS = list(MANIFEST["encoders"])
"""default2048, default512, resnetish34, clstm, cvt."""


@functools.cache
def reference(name: str) -> dict[str, np.ndarray]:
    """The arrays of ``encoders``, ``frontend`` or ``api``."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


@functools.cache
def recipe_state_dict(variant: str) -> dict[str, torch.Tensor]:
    arrays = recipe.fill_state_dict(MANIFEST, variant)
    assert recipe.state_dict_sha256(arrays) == MANIFEST["encoders"][variant]["recipe_sha256"]
    return {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}


def recipe_config(variant: str) -> dict[str, Any]:
    """Arguments of the encoder's class, read off the recipe's weights."""
    encoder = ENCODERS[MANIFEST["encoders"][variant]["model_name"]]
    config = encoder.config_from_state_dict(recipe_state_dict(variant))
    assert config is not None
    return config


def recipe_model(variant: str, **options: Any) -> ByolsModel:
    """A fresh model with the recipe's weights, in eval mode."""
    name, config = MANIFEST["encoders"][variant]["model_name"], recipe_config(variant)
    with torch.device("meta"):  # which spares the random weights
        encoder = create_encoder(name, **config)
    encoder.load_state_dict(
        {key: value.clone() for key, value in recipe_state_dict(variant).items()}, assign=True
    )
    return ByolsModel(encoder, create_frontend("torch"), **options).eval()


def encoder_input(index: int) -> tuple[str, torch.Tensor]:
    """Name and normalised log-mel (B, 1, 64, T) of one of the encoder inputs."""
    spec = MANIFEST["inputs"][index]
    values = recipe.logmel_like(MANIFEST["input_salt"], spec["name"], spec["shape"], spec["scale"])
    return spec["name"], torch.from_numpy(values)


def waveform(name: str) -> torch.Tensor:
    """Samples (n,) of one of the waveforms."""
    return torch.from_numpy(recipe.waveform(MANIFEST["wave_salt"], MANIFEST["waveforms"][name]["spec"]))


def speech(seed: int, n_samples: int) -> torch.Tensor:
    """Speech-like samples (n,) that no parity number knows."""
    spec = {"name": f"voice_{seed}", "kind": "voice", "n": n_samples}
    return torch.from_numpy(recipe.waveform(seed, spec))


def assert_close_to_peak(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal within a fraction of the largest expected value."""
    atol = tolerance * float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)
