"""The four encoders by their public names."""

from __future__ import annotations

from typing import Any

from serab_byols.encoders.audiontt import AudioNTT
from serab_byols.encoders.clstm import CLSTM
from serab_byols.encoders.cvt import CvT
from serab_byols.encoders.encoder import Encoder, EncoderName, unwrapped
from serab_byols.encoders.resnetish import Resnetish34
from serab_byols.errors import InvalidInputError

ENCODERS: dict[str, type[Encoder]] = {
    encoder.name: encoder for encoder in (AudioNTT, Resnetish34, CLSTM, CvT)
}


def create_encoder(name: str, **config: Any) -> Encoder:
    """An encoder with random weights.

    Args:
        name: ``"default"``, ``"resnetish34"``, ``"clstm"`` or ``"cvt"``.
        **config: arguments of its class, such as ``d=512`` for ``"default"``.

    Raises:
        InvalidInputError: no encoder has that name, or it does not take that configuration.
    """
    if not isinstance(name, str) or name not in ENCODERS:
        raise InvalidInputError(f"unknown encoder {name!r}; choose from {', '.join(ENCODERS)}")
    try:
        return ENCODERS[name](**config)
    except InvalidInputError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:  # as torch has it
        raise InvalidInputError(f"the {name!r} encoder does not take {config}: {error}") from error


__all__ = [
    "CLSTM",
    "ENCODERS",
    "AudioNTT",
    "CvT",
    "Encoder",
    "EncoderName",
    "Resnetish34",
    "create_encoder",
    "unwrapped",
]
