"""Datasets of embeddings: a folder of Parquet parts, made one by one, by any engine, in any order."""

from serab_byols.corpus.dataset.ray_engine import RayEngine
from serab_byols.corpus.dataset.run import DatasetSummary, embed_dataset

__all__ = ["DatasetSummary", "RayEngine", "embed_dataset"]
