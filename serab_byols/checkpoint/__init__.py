"""Checkpoints: load, read, write, and find by name.

The project's own format is safetensors whose header describes the model: format version, encoder
and its configuration, front end, normalisation statistics, training facts. Published ``.pth`` files
are bare state dicts; encoder and size are recognised from their keys and shapes. Weights that have
a name (:mod:`serab_byols.checkpoint.registry`) are loaded by it.
"""

from serab_byols.checkpoint.format import FORMAT_VERSION, HEADER_KEY, STORAGE_TYPES, weights_sha256
from serab_byols.checkpoint.loading import load_model, read_checkpoint
from serab_byols.checkpoint.reading import Checkpoint
from serab_byols.checkpoint.registry import DEFAULT_WEIGHTS
from serab_byols.checkpoint.writing import save_checkpoint

__all__ = [
    "DEFAULT_WEIGHTS",
    "FORMAT_VERSION",
    "HEADER_KEY",
    "STORAGE_TYPES",
    "Checkpoint",
    "load_model",
    "read_checkpoint",
    "save_checkpoint",
    "weights_sha256",
]
