"""Audio files to segments to records to tables."""

from serab_byols.corpus.embedding import embed_audio, embed_file, embed_files
from serab_byols.corpus.record import Record

__all__ = ["Record", "embed_audio", "embed_file", "embed_files"]
