"""From a path or a name to a model with trained weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from serab_byols.checkpoint.hub_download import download_from_hub, is_hub_address, parse_hub_address
from serab_byols.checkpoint.reading import Checkpoint, read_checkpoint_file, read_safetensors
from serab_byols.checkpoint.registry import PublishedWeights, find_weights
from serab_byols.checkpoint.weights_cache import find_or_download
from serab_byols.encoders import ENCODERS, EncoderName
from serab_byols.errors import CheckpointError, InvalidInputError
from serab_byols.frontend import FrontendName, create_frontend
from serab_byols.model import ByolsModel, usable_device
from serab_byols.normalization import NormalizationName, parse_normalization
from serab_byols.paths import path_text


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
        model_file_path: a checkpoint in this project's format (``.safetensors``), a published ``.pth``
            file, the state dict of an encoder or of a whole :class:`ByolsModel`, a name that
            ``serab-byols list`` shows, or ``hf://owner/name`` or ``hf://owner/name@revision`` on the Hugging
            Face Hub (extra ``hub``); empty for the weights of this package.
        model_name: ``"default"``, ``"resnetish34"``, ``"clstm"`` or ``"cvt"``. Without a checkpoint, the
            bundled weights of this encoder are loaded; with one it is only a check, since the file says
            which encoder it holds.
        normalization: ``"auto"``, ``"clip"``, ``"batch"``, ``"hear2021"`` or (mean, std); see
            :mod:`serab_byols.normalization`. ``"auto"`` is the mean and std in the file or, for published
            weights loaded by name, those that ``serab-byols list`` shows; else ``"clip"``.
        frontend: ``"torch"``, ``"nnaudio"`` or ``"torchaudio"``.
        device: where the model goes; nothing is chosen silently.
        cache_dir: folder for downloads; by default ``SERAB_BYOLS_CACHE``, else the user's cache. For the Hub
            its own, ``HF_HUB_CACHE``.
        offline: whether to download nothing; by default ``SERAB_BYOLS_OFFLINE``.

    Raises:
        CheckpointNotFoundError: no such file, no such name, no bundled weights of this encoder, or not on
            this machine while offline.
        CheckpointError: corrupt, foreign, or not the encoder that ``model_name`` says.
        DownloadError: weights could not be downloaded, or other bytes than the published ones came.
        InvalidInputError: an option that does not exist, a device that is not here.
        MissingExtraError: the package of the front end or of the Hub is not installed.

    Example:
        >>> model = serab_byols.load_model()
        >>> model.encoder.name, model.embedding_size
        ('default', 512)
    """
    if model_name is not None and model_name not in list(ENCODERS):
        raise InvalidInputError(f"unknown model_name {model_name!r}; choose from {', '.join(ENCODERS)}")
    parse_normalization(normalization)
    usable_device(device)  # before a download
    checkpoint = read_checkpoint(model_file_path, model_name, cache_dir=cache_dir, offline=offline)
    return model_of(checkpoint, normalization=normalization, frontend=frontend, device=device)


def model_of(
    checkpoint: Checkpoint,
    *,
    normalization: NormalizationName | Sequence[float] = "auto",
    frontend: FrontendName = "torch",
    device: str | torch.device = "cpu",
) -> ByolsModel:
    """The model of a checkpoint, in eval mode; options and errors as for :func:`load_model`."""
    model = ByolsModel(
        checkpoint.build_encoder(),
        create_frontend(frontend),
        normalization=normalization,
        statistics=checkpoint.statistics,
        training_facts=checkpoint.training_facts,
        source=checkpoint.source or checkpoint.path.name,
    )
    return model.eval().to(usable_device(device))


def read_checkpoint(
    path: str | os.PathLike[str],
    model_name: EncoderName | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> Checkpoint:
    """Read a checkpoint of either format, by path or by name as ``load_model`` does.

    Published weights that are read by their name have the statistics that are recommended for them; read
    by the path of their file, which holds none, they have none.

    Raises:
        CheckpointNotFoundError: no such file, no such name, no bundled weights of this encoder, or not on
            this machine while offline.
        CheckpointError: corrupt, truncated, foreign, or not the encoder that ``model_name`` says.
        DownloadError: weights could not be downloaded, or other bytes than the published ones came.
        MissingExtraError: an address on the Hub, and its package is not installed.
    """
    text = path_text(path, "a checkpoint")
    if is_hub_address(text):
        file, address = download_from_hub(parse_hub_address(text), cache_dir, offline)
        checkpoint = replace(read_safetensors(file), source=str(address))
        _check_encoder(text, checkpoint.encoder, model_name)
        return checkpoint
    weights = find_weights(path, model_name)
    if not isinstance(weights, PublishedWeights):
        checkpoint = read_checkpoint_file(weights)
        _check_encoder(str(weights), checkpoint.encoder, model_name)
        return checkpoint
    _check_encoder(weights.name, weights.encoder, model_name)  # before a download, not after it
    checkpoint = read_checkpoint_file(find_or_download(weights, cache_dir, offline))
    return replace(checkpoint, statistics=weights.statistics)


def _check_encoder(weights: str, encoder: str, model_name: str | None) -> None:
    if model_name not in (None, encoder):
        raise CheckpointError(f"{weights} holds the encoder {encoder!r}, but model_name says {model_name!r}")
