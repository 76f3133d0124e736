"""The model: waveform, log-mel front end, normalisation, encoder, embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from serab_byols.display.html_table import html_table
from serab_byols.encoders import Encoder, EncoderName, create_encoder, unwrapped
from serab_byols.encoders.layer_features import layer_features
from serab_byols.encoders.layer_geometry import Layer
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
        self._check(waveform)
        if len(waveform) == 0:
            return waveform.new_zeros(0, self.embedding_size, dtype=self.dtype)
        return self.encoder(self._encoder_input(waveform))

    def _check(self, waveform: torch.Tensor) -> None:
        check_dense(waveform, "the waveform")
        if waveform.ndim != 2 or waveform.shape[1] == 0 or not waveform.is_floating_point():
            raise InvalidInputError(
                "the model takes floating-point waveforms of shape (batch, samples) with at least "
                f"one sample, got {waveform.dtype} of shape {tuple(waveform.shape)}"
            )

    def _encoder_input(self, waveform: torch.Tensor) -> torch.Tensor:
        """Normalised log-mel (B, 1, 64, T) of waveforms (B, n)."""
        log_mel = self.frontend(self.pad_short(waveform))
        return self.normalize(log_mel)[:, None].to(self.dtype)

    def features(self, waveform: torch.Tensor, layer: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of an encoder layer, step by step, before they are pooled to an embedding.

        They are for weighted sums of layers and for models of sequences. Like ``model(waveform)`` they are
        differentiable, and computed in the mode that the model is in. In eval mode (which ``load_model``
        returns) clips do not influence each other, and long ones go through the encoder in chunks, with
        the features of the whole; under ``torch.no_grad()`` memory then grows by the result alone, for
        ``clstm`` by the convolutions' features too, and for ``cvt`` by those of its earlier stages (0.4 GB
        each for an hour), whose attention sees windows of at most ten minutes.

        Args:
            waveform: (B, n), floating point, nominally in [-1, 1], at ``sample_rate``.
            layer: one of :attr:`feature_layers`, which tells their strides and receptive fields; by default
                the last one, which embeddings are pooled from.

        Returns:
            Features (B, T, F), float32, mel bands and channels flattened where the layer still has bands,
            and the times (T,) in milliseconds, float32, at which the steps are centred.

        Raises:
            InvalidInputError: as for ``model(waveform)``; a layer that the encoder does not have.

        Example:
            >>> model = serab_byols.load_model()
            >>> features, times_ms = model.features(torch.zeros(1, 16000))
            >>> features.shape, times_ms[:3].tolist()
            (torch.Size([1, 12, 512]), [35.0, 115.0, 195.0])
        """
        name = next(reversed(self.feature_layers), "") if layer is None else layer
        return self._layer_features(waveform, [name])[name]

    def all_features(self, waveform: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """What :meth:`features` returns, of every layer by its name, at the cost of one.

        Example:
            >>> layers = serab_byols.load_model().all_features(torch.zeros(1, 16000))
            >>> [(name, *features.shape[1:]) for name, (features, times_ms) in layers.items()]
            [('conv1', 50, 2048), ('conv2', 25, 1024), ('conv3', 12, 512), ('fc1', 12, 512), ('fc2', 12, 512)]
        """
        return self._layer_features(waveform, list(self.feature_layers))

    @property
    def feature_layers(self) -> dict[str, Layer]:
        """Layers whose features can be had, by name, in order, with ``stride_ms`` and ``receptive_ms``.

        A receptive field is centred on its step's time, and infinite where a step depends on the whole clip.

        Example:
            >>> layer = serab_byols.load_model().feature_layers["fc2"]
            >>> layer.stride_ms, layer.receptive_ms
            (80.0, 235.0)
        """
        return unwrapped(self.encoder).feature_layers

    def _layer_features(
        self, waveform: torch.Tensor, names: list[str]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        for name in names:
            if name not in self.feature_layers:
                raise InvalidInputError(
                    f"the {self.encoder.name!r} encoder has no layer {name!r}; it has "
                    f"{', '.join(self.feature_layers) or 'none with features'}"
                )
        self._check(waveform)
        n_clips = len(waveform)
        x = self._encoder_input(waveform if n_clips else waveform.new_zeros(1, waveform.shape[1]))
        features = layer_features(unwrapped(self.encoder), x, names)
        layers = self.feature_layers
        return {
            name: (steps[:n_clips].float(), layers[name].times_ms(steps.shape[1]).to(steps.device))
            for name, steps in features.items()
        }

    def pad_short(self, waveform: torch.Tensor) -> torch.Tensor:
        """Append zeros (B, n) until the front end and the encoder have their minimum."""
        missing = self.min_samples - waveform.shape[-1]
        return F.pad(waveform, (0, missing)) if missing > 0 else waveform

    def normalize(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Scenes' log-mels (B, 64, T) by the rule in force."""
        mean, std = scene_statistics(log_mel, self.resolved_normalization)
        return (log_mel - mean) / std

    def __repr__(self) -> str:
        facts = "".join(f"  {name}: {fact}\n" for name, fact in self._facts().items())
        return f"{type(self).__name__}(\n{facts})"

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__, self._facts())

    def _facts(self) -> dict[str, str]:
        """What a person wants to know of the model."""
        n_parameters = sum(parameter.numel() for parameter in self.encoder.parameters())
        resolved = self.resolved_normalization
        rule = f"({resolved.mean:g}, {resolved.std:g})" if isinstance(resolved, Statistics) else resolved
        if self._normalization == "auto":
            rule = f"auto, here {rule}"
        config = "".join(f", {key}={value}" for key, value in self.encoder.config.items())
        return {
            "encoder": f"{self.encoder.name} ({type(self.encoder).__name__}{config}), "
            f"{n_parameters:,} parameters in {self.dtype} on {self.device}",
            "weights": self.source,
            "input": f"mono waveform (batch, samples) at {self.sample_rate} Hz",
            "front end": f"{self.frontend.name}, normalization: {rule}",
            "output": f"embedding (batch, {self.embedding_size})",
        }


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
