"""Features of an encoder's layers, before they are pooled to an embedding."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import torch

from serab_byols.encoders.encoder import Encoder, flatten_mel_major
from serab_byols.encoders.layer_geometry import WHOLE_CLIP, Layer, in_chunks

CHUNK_COLUMNS = 2400
"""Columns that go through an encoder together, unless a clip's features need it as a whole: 24 s."""


def layer_features(encoder: Encoder, x: torch.Tensor, names: Collection[str]) -> dict[str, torch.Tensor]:
    """Features (B, T', F) of the layers called ``names``, as the encoder computes them of the whole input.

    In eval mode long clips go through the local layers in chunks, and large batches in parts; a batch norm
    that is training needs all at once.

    Args:
        encoder: in the mode that it is to be used in.
        x: normalised log-mel (B, 1, 64, T).
        names: of ``encoder.feature_layers``.
    """
    if encoder.training:
        return _of_clips(encoder, x, names, n_columns=x.shape[3])
    size = max(1, CHUNK_COLUMNS // x.shape[3])
    parts = [_of_clips(encoder, part, names, CHUNK_COLUMNS) for part in x.split(size)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _of_clips(
    encoder: Encoder, x: torch.Tensor, names: Collection[str], n_columns: int
) -> dict[str, torch.Tensor]:
    """The same of a batch that is small enough, ``n_columns`` at once."""
    local = [layer for layer in encoder.feature_layers.values() if layer.receptive < WHOLE_CLIP]
    is_global = any(encoder.feature_layers[name] not in local for name in names)
    needed = [layer for layer in local if layer.name in names or (is_global and layer is local[-1])]
    features = _in_chunks(encoder, x, needed, n_columns)
    if is_global:
        steps = features[local[-1].name] if local else None
        last = [name for name in encoder.feature_layers if name in names][-1]
        for name, output in _until(last, encoder.global_layers(x, steps)):
            if name in names:
                features[name] = _flat(output)
    return {name: features[name] for name in names}


def _in_chunks(
    encoder: Encoder, x: torch.Tensor, layers: list[Layer], chunk_columns: int
) -> dict[str, torch.Tensor]:
    if not layers:
        return {}
    stride = max(layer.stride for layer in layers)
    halo_before = math.ceil(max(layer.reach_before for layer in layers) / stride) * stride
    halo_after = math.ceil(max(layer.reach_after for layer in layers))
    parts: dict[str, list[torch.Tensor]] = {layer.name: [] for layer in layers}
    for chunk in in_chunks(x.shape[3], chunk_columns, halo_before, halo_after):
        outputs = encoder.local_layers(x[..., chunk.first : chunk.last])
        for name, output in _until(layers[-1].name, outputs):
            if name in parts:
                parts[name].append(chunk.own(_flat(output), encoder.feature_layers[name].stride))
    return {name: torch.cat(of_layer, dim=1) for name, of_layer in parts.items()}


def _until(last: str, outputs: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Outputs up to that of the layer ``last``; those after it are not computed."""
    for name, output in outputs:
        yield name, output
        if name == last:
            return


def _flat(output: torch.Tensor) -> torch.Tensor:
    """(B, C, M, T') to (B, T', M * C), mel-major as everywhere; (B, T', F) as it is."""
    return flatten_mel_major(output) if output.ndim == 4 else output
