"""Running an encoder in training: its embedding, and its features before they are pooled.

AudioNTT's first stage is done another way, with the same result. It has one input channel, so every
value of its convolution is a product of nine weights and nine inputs, and mean and variance of its
outputs follow from those of the inputs' 3 x 3 neighbourhoods: a 9 x 9 covariance matrix. The batch
normalisation then is a scaling of the weights, and its passes over 64 full-size channels, which
take longer than the convolution, are not made. ReLU comes after the maximum, of which it leaves a
quarter of the values; the two commute.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from serab_byols.encoders import Encoder
from serab_byols.encoders.audiontt import AudioNTT
from serab_byols.encoders.encoder import flatten_mel_major, mean_max
from serab_byols.pretrain.distributed import averaged, full, n_processes, track

_CLIPS_AT_ONCE = 16
"""As many as keep the first stage's full-size channels near the processor."""


def embedding_and_frames(encoder: Encoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embedding (B, D) and, where the encoder has such, features (B, T', D), of (B, 1, 64, T)."""
    frames = _audiontt_frames(encoder, x) if type(encoder) is AudioNTT else encoder.step_features(x)
    return (encoder(x), None) if frames is None else (mean_max(frames), frames)


def _audiontt_frames(encoder: AudioNTT, x: torch.Tensor) -> torch.Tensor:
    (conv, norm, _, pool), *later = _stages(encoder)
    x = _first_stage(conv, norm, x) if norm.training else pool(norm(conv(x))).relu_()
    for conv, norm, _, pool in later:
        x = pool(norm(conv(x))).relu_()
    return encoder.fc(flatten_mel_major(x))


def _stages(encoder: AudioNTT) -> list[list[Any]]:
    """Convolution, batch normalisation, ReLU and pooling of each stage."""
    modules = list(encoder.features)
    return [modules[first : first + 4] for first in range(0, len(modules), 4)]


class Teacher:
    """An encoder that only answers: its embedding and features, on no more clips than caches hold.

    The caller's encoder stays as it is.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
        if isinstance(self.encoder, AudioNTT):
            _fold_batch_norms(self.encoder.features)
        nn.Module.to(self.encoder, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embedding (B, D) and features (B, T', D) or None, of (B, 1, 64, T)."""
        self.encoder.to(x.device)
        answers = [embedding_and_frames(self.encoder, part) for part in x.split(_CLIPS_AT_ONCE)]
        embeddings, frames = zip(*answers)
        return torch.cat(embeddings), None if frames[0] is None else torch.cat(frames)


def _fold_batch_norms(features: nn.Sequential) -> None:
    for first in range(0, len(features), 4):
        conv, norm = features[first], features[first + 1]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, _BatchNorm)
        features[first] = fuse_conv_bn_eval(conv, norm)
        features[first + 1] = nn.Identity().eval()


def _first_stage(conv: nn.Conv2d, norm: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """Convolution, batch normalisation, ReLU and pooling of (B, 1, M, T)."""
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = _normalized_weights(conv, norm, x)
    parts = (F.max_pool2d(F.conv2d(part, weight, bias, padding=1), 2) for part in x.split(_CLIPS_AT_ONCE))
    return torch.cat(list(parts)).relu_()


def _normalized_weights(
    conv: nn.Conv2d, norm: _BatchNorm, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and bias of a convolution that normalises its outputs over the batch."""
    assert conv.bias is not None
    patch_mean, covariance = _patch_moments(full(x))
    weight = conv.weight.flatten(1)
    mean = weight @ patch_mean + conv.bias
    var = ((weight @ covariance) * weight).sum(1).clamp_min(0)
    track(norm, mean, var, x.numel() * n_processes())
    scale = norm.weight * (var + norm.eps).rsqrt()
    return conv.weight * scale[:, None, None, None], norm.bias + (conv.bias - mean) * scale


def _patch_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (9,) and covariance (9, 9) of the 3 x 3 neighbourhoods in all processes' (B, 1, M, T)."""
    patches = F.unfold(x, 3, padding=1).transpose(0, 1).flatten(1)
    mean = averaged(patches.mean(1))
    centred = patches - mean[:, None]
    return mean, averaged(centred @ centred.T / patches.shape[1])
