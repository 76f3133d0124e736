"""The forward pass of an encoder in training: its embedding, and its features before pooling.

AudioNTT's first stage is computed in another way, with the same result. It has one input channel, so
every output of its convolution is a product of nine weights and nine inputs, and mean and variance of
the outputs follow from the 9 x 9 covariance matrix of the inputs' 3 x 3 neighbourhoods. The batch
normalisation becomes a scaling of the weights, and its passes over 64 full-size channels, which take
longer than the convolution, are not needed. ReLU comes after the maximum, of which it leaves a quarter
of the values; the two commute.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from serab_byols.encoders import Encoder
from serab_byols.encoders.audiontt import AudioNTT
from serab_byols.encoders.encoder import flatten_mel_major, mean_max
from serab_byols.pretrain.distributed import averaged, n_processes, to_float32, update_running_statistics

CACHED_CLIPS = 16
"""Clips whose full-size channels stay in a processor's cache."""


def embed_with_steps(encoder: Encoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of (B, 1, 64, T): the embedding (B, D) and, where it pools such, features per time step (B, T', D)."""
    steps = _audiontt_steps(encoder, x) if type(encoder) is AudioNTT else encoder.step_features(x)
    return (encoder(x), None) if steps is None else (mean_max(steps), steps)


def _audiontt_steps(encoder: AudioNTT, x: torch.Tensor) -> torch.Tensor:
    (conv, norm, _, pool), *later = audiontt_stages(encoder)
    x = _first_stage(conv, norm, x) if norm.training else pool(norm(conv(x))).relu_()
    for conv, norm, _, pool in later:
        x = pool(norm(conv(x))).relu_()
    return encoder.fc(flatten_mel_major(x))


def audiontt_stages(encoder: AudioNTT) -> list[list[Any]]:
    """Convolution, batch normalisation, ReLU and pooling of each stage."""
    modules = list(encoder.features)
    return [modules[first : first + 4] for first in range(0, len(modules), 4)]


def _first_stage(conv: nn.Conv2d, norm: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """Convolution, batch normalisation, ReLU and pooling of (B, 1, M, T)."""
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = _normalized_weights(conv, norm, x)
    parts = (F.max_pool2d(F.conv2d(part, weight, bias, padding=1), 2) for part in x.split(CACHED_CLIPS))
    return torch.cat(list(parts)).relu_()


def _normalized_weights(
    conv: nn.Conv2d, norm: _BatchNorm, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and bias of a convolution that normalises its outputs over the batch."""
    assert conv.bias is not None
    patch_mean, covariance = _patch_moments(to_float32(x))
    weight = conv.weight.flatten(1)
    mean = weight @ patch_mean + conv.bias
    var = ((weight @ covariance) * weight).sum(1).clamp_min(0)
    update_running_statistics(norm, mean, var, x.numel() * n_processes())
    scale = norm.weight * (var + norm.eps).rsqrt()
    return conv.weight * scale[:, None, None, None], norm.bias + (conv.bias - mean) * scale


def _patch_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (9,) and covariance (9, 9) of the 3 x 3 neighbourhoods in all processes' (B, 1, M, T)."""
    patches = F.unfold(x, 3, padding=1).transpose(0, 1).flatten(1)
    mean = averaged(patches.mean(1))
    centred = patches - mean[:, None]
    return mean, averaged(centred @ centred.T / patches.shape[1])
