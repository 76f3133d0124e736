"""From a path or a name to a model with trained weights."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from serab_byols.checkpoint.reading import Checkpoint, read_checkpoint_file
from serab_byols.checkpoint.resolve import named_weights, resolve_checkpoint
from serab_byols.encoders import ENCODERS, EncoderName
from serab_byols.errors import CheckpointError, InvalidInputError
from serab_byols.frontend import FrontendName, create_frontend
from serab_byols.model import ByolsModel
from serab_byols.normalization import NormalizationName, parse_normalization


def load_model(
    model_file_path: str | os.PathLike[str] = "",
    model_name: EncoderName | None = None,
    *,
    normalization: NormalizationName | Sequence[float] = "auto",
    frontend: FrontendName = "torch",
    device: str | torch.device = "cpu",
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> ByolsModel:
    """A model with trained weights, in eval mode (HEAR 2021 common API).

    Args:
        model_file_path: a checkpoint in this project's format (``.safetensors``), a published
            ``.pth`` file, or a name that ``serab-byols list`` shows; empty for the default weights.
        model_name: ``"default"``, ``"resnetish34"``, ``"clstm"`` or ``"cvt"``; only a check, since
            the file speaks for itself.
        normalization: ``"auto"``, ``"clip"``, ``"batch"``, ``"hear2021"`` or (mean, std); see
            :mod:`serab_byols.normalization`.
        frontend: ``"torch"``, ``"nnaudio"`` or ``"torchaudio"``.
        device: where the model goes; nothing is chosen silently.
        cache_dir: folder for downloaded weights, instead of ``SERAB_BYOLS_CACHE`` or the user's.
        offline: whether to use what is here and nothing else, instead of ``SERAB_BYOLS_OFFLINE``.

    Raises:
        CheckpointNotFoundError: no such file, no such name, or not here while offline.
        CheckpointError: corrupt, foreign, or not the encoder that ``model_name`` says.
        DownloadError: published weights could not be downloaded, or came with other bytes.
        InvalidInputError: an option that does not exist.
        MissingExtraError: the front end's package is not installed.
    """
    if model_name is not None and model_name not in ENCODERS:
        raise InvalidInputError(f"unknown model_name {model_name!r}; choose from {', '.join(ENCODERS)}")
    parse_normalization(normalization)
    weights = named_weights(model_file_path)
    if weights is not None:  # before a download, not after it
        _check_name(weights.name, weights.encoder, model_name)
    checkpoint = read_checkpoint(model_file_path, cache_dir=cache_dir, offline=offline)
    _check_name(str(checkpoint.path), checkpoint.encoder, model_name)
    model = ByolsModel(
        checkpoint.build_encoder(),
        create_frontend(frontend),
        normalization=normalization,
        statistics=checkpoint.statistics,
        training_facts=checkpoint.training_facts,
        source=checkpoint.path.name,
    )
    return model.eval().to(device)


def _check_name(weights: str, encoder: str, model_name: str | None) -> None:
    if model_name not in (None, encoder):
        raise CheckpointError(f"{weights} holds the encoder {encoder!r}, but model_name says {model_name!r}")


def read_checkpoint(
    path: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> Checkpoint:
    """Read and recognise a checkpoint of either format, by path or by name as ``load_model`` does.

    Raises:
        CheckpointNotFoundError: no such file, no such name, or not here while offline.
        CheckpointError: the file is corrupt, truncated, or not a BYOL-S checkpoint.
        DownloadError: published weights could not be downloaded, or came with other bytes.
    """
    return read_checkpoint_file(resolve_checkpoint(path, cache_dir=cache_dir, offline=offline))
