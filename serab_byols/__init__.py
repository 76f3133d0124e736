"""BYOL-S speech embeddings by the HEAR 2021 common API."""

from serab_byols._version import __version__
from serab_byols.checkpoint import load_model, save_checkpoint
from serab_byols.corpus import Record, embed_audio, embed_file, embed_files
from serab_byols.errors import SerabByolsError
from serab_byols.hear import get_scene_embeddings, get_timestamp_embeddings
from serab_byols.model import ByolsModel, create_model

__all__ = [
    "ByolsModel",
    "Record",
    "SerabByolsError",
    "__version__",
    "create_model",
    "embed_audio",
    "embed_file",
    "embed_files",
    "get_scene_embeddings",
    "get_timestamp_embeddings",
    "load_model",
    "save_checkpoint",
]
