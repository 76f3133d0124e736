"""The model: waveform, log-mel front end, normalisation, encoder, embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from serab_byols.encoders import Encoder, EncoderName, create_encoder
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import (
    HOP_SAMPLES,
    MIN_SAMPLES,
    SAMPLE_RATE_HZ,
    FrontendName,
    LogMelFrontend,
    create_frontend,
)
from serab_byols.normalization import (
    Normalization,
    NormalizationName,
    Statistics,
    parse_normalization,
    parse_statistics,
    resolve_normalization,
    scene_statistics,
)


class ByolsModel(nn.Module):
    """A BYOL-S model (arXiv 2110.03414): waveform (B, n) at 16 kHz to embedding (B, D).

    It is differentiable down to the samples, and a plain module: ``train()``, ``to()``,
    ``state_dict()`` do what they do elsewhere. Its state dict holds the encoder alone, under
    ``encoder.``.

    Args:
        encoder: normalised log-mel (B, 1, 64, T) to embedding (B, D).
        frontend: waveform (B, n) to log-mel (B, 64, T).
        normalization: see :mod:`serab_byols.normalization`; may be changed later.
        statistics: mean and std that belong to the weights, used by ``normalization="auto"``.
        training_facts: what is known of how the weights came to be; kept by ``save_checkpoint``.
        source: where the weights came from, for people to read.

    Attributes:
        sample_rate: samples per second that the waveform must have, 16000.
        embedding_size, scene_embedding_size, timestamp_embedding_size: D.
        min_samples: shortest waveform that is not padded; shorter ones get zeros appended.

    Example:
        >>> model = serab_byols.create_model("cvt")
        >>> waveform = torch.zeros(2, 16000, requires_grad=True)
        >>> model(waveform).shape
        torch.Size([2, 2048])
        >>> model(waveform).sum().backward()
        >>> waveform.grad.shape
        torch.Size([2, 16000])
    """

    def __init__(
        self,
        encoder: Encoder,
        frontend: LogMelFrontend,
        *,
        normalization: NormalizationName | Sequence[float] = "auto",
        statistics: Sequence[float] | None = None,
        training_facts: dict[str, Any] | None = None,
        source: str = "random weights",
    ) -> None:
        super().__init__()
        self.frontend = frontend
        self.encoder = encoder
        self.statistics = parse_statistics(statistics)
        self.normalization = normalization
        self.training_facts = dict(training_facts or {})
        self.source = source
        self.sample_rate = SAMPLE_RATE_HZ
        self.embedding_size = encoder.embedding_size
        self.scene_embedding_size = encoder.scene_embedding_size
        self.timestamp_embedding_size = encoder.timestamp_embedding_size
        self.min_samples = max(MIN_SAMPLES, (encoder.min_columns - 1) * HOP_SAMPLES)

    @property
    def normalization(self) -> Normalization:
        """The rule as it was given: a name or a (mean, std) pair."""
        return self._normalization

    @normalization.setter
    def normalization(self, value: NormalizationName | Sequence[float]) -> None:
        self._normalization = parse_normalization(value)

    @property
    def resolved_normalization(self) -> Normalization:
        """The rule in force: ``"auto"`` replaced by what it stands for with these weights."""
        return resolve_normalization(self._normalization, self.statistics)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.encoder.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(self.encoder.parameters()).dtype

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D), in the encoder's dtype, of waveforms (B, n), nominally in [-1, 1].

        Waveforms of any floating-point type are taken; the log-mel is float32 (float64 after ``double()``).
        Under ``normalization="batch"`` (and ``"hear2021"``) the statistics are those of this batch.

        Raises:
            InvalidInputError: not a dense tensor with two axes, not floating point, or no samples.
        """
        check_dense(waveform, "the waveform")
        if waveform.ndim != 2 or waveform.shape[1] == 0 or not waveform.is_floating_point():
            raise InvalidInputError(
                "the model takes floating-point waveforms of shape (batch, samples) with at least "
                f"one sample, got {waveform.dtype} of shape {tuple(waveform.shape)}"
            )
        if len(waveform) == 0:
            return waveform.new_zeros(0, self.embedding_size, dtype=self.dtype)
        log_mel = self.frontend(self.pad_short(waveform))
        return self.encoder(self.normalize(log_mel)[:, None].to(self.dtype))

    def pad_short(self, waveform: torch.Tensor) -> torch.Tensor:
        """Append zeros (B, n) until the front end and the encoder have their minimum."""
        missing = self.min_samples - waveform.shape[-1]
        return F.pad(waveform, (0, missing)) if missing > 0 else waveform

    def normalize(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Scenes' log-mels (B, 64, T) by the rule in force."""
        mean, std = scene_statistics(log_mel, self.resolved_normalization)
        return (log_mel - mean) / std

    def __repr__(self) -> str:
        n_parameters = sum(parameter.numel() for parameter in self.encoder.parameters())
        resolved = self.resolved_normalization
        rule = f"({resolved.mean:g}, {resolved.std:g})" if isinstance(resolved, Statistics) else resolved
        if self._normalization == "auto":
            rule = f"auto, here {rule}"
        config = "".join(f", {key}={value}" for key, value in self.encoder.config.items())
        return (
            f"{type(self).__name__}(\n"
            f"  encoder: {self.encoder.name} ({type(self.encoder).__name__}{config}), "
            f"{n_parameters:,} parameters in {self.dtype} on {self.device}\n"
            f"  weights: {self.source}\n"
            f"  input: mono waveform (batch, samples) at {self.sample_rate} Hz\n"
            f"  front end: {self.frontend.name}, normalization: {rule}\n"
            f"  output: embedding (batch, {self.embedding_size})\n"
            ")"
        )


def create_model(
    encoder: EncoderName = "default",
    *,
    normalization: NormalizationName | Sequence[float] = "auto",
    frontend: FrontendName = "torch",
    device: str | torch.device = "cpu",
    **config: Any,
) -> ByolsModel:
    """A model with random weights, in eval mode: a baseline, or the start of a training.

    Args:
        encoder: ``"default"`` (AudioNTT), ``"resnetish34"``, ``"clstm"`` or ``"cvt"``.
        normalization: rule or (mean, std); see :mod:`serab_byols.normalization`.
        frontend: ``"torch"``, ``"nnaudio"`` or ``"torchaudio"``.
        device: where the model goes; nothing is chosen silently.
        **config: the encoder's own arguments, such as ``d=512`` for ``"default"``.

    Raises:
        InvalidInputError: an unknown name or configuration.
        MissingExtraError: the front end's package is not installed.

    Example:
        >>> serab_byols.create_model("default", d=512).embedding_size
        512
    """
    place = usable_device(device)
    model = ByolsModel(
        create_encoder(encoder, **config), create_frontend(frontend), normalization=normalization
    )
    return model.eval().to(place)


def usable_device(device: str | torch.device) -> torch.device:
    """The device, on which a tensor could be made.

    Raises:
        InvalidInputError: there is none of that name, this build of torch or this machine does not have
            it, or it holds no numbers, as ``"meta"``; the message says which there are.
    """
    try:
        chosen = torch.device(device)
        if chosen.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ImportError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InvalidInputError(
            f"cannot use device {str(device)!r}: {reason}. Here there is: {', '.join(_devices())}"
        ) from None
    return chosen


def _devices() -> list[str]:
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def check_dense(samples: object, label: str) -> None:
    """Refuse what is not a tensor, and tensors without ordinary values in memory.

    Raises:
        InvalidInputError: it is.
    """
    if not isinstance(samples, torch.Tensor):
        raise InvalidInputError(f"{label} must be a tensor, got {type(samples).__name__}")
    if samples.is_nested or samples.is_meta or samples.is_quantized or samples.layout != torch.strided:
        raise InvalidInputError(
            f"{label} must be an ordinary dense tensor, not nested, sparse, meta or quantised"
        )
