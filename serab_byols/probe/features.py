"""What a probe learns from: clips to vectors, by models and by baselines that nobody trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from serab_byols.corpus.decoding import AudioClip
from serab_byols.corpus.embedding import ErrorHandler, check_corpus_normalization, embed_segments
from serab_byols.corpus.provenance import describe_model
from serab_byols.corpus.segments import Segment
from serab_byols.errors import AudioFileError, SerabByolsError
from serab_byols.frontend import SAMPLE_RATE_HZ, TorchFrontend
from serab_byols.model import ByolsModel, create_model
from serab_byols.probe.handmade import DESCRIPTION, handmade_features

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is to do."""


class Features(Protocol):
    """A way from clips to vectors."""

    name: str

    @property
    def description(self) -> dict[str, Any]:
        """Facts for the report, JSON-serialisable."""
        ...

    def vectors(
        self, segments: Sequence[Segment], on_error: ErrorHandler
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Positions in ``segments`` and vectors (D,), without those clips that ``on_error`` gets."""
        ...


class ModelFeatures:
    """Scene embeddings of a model.

    Args:
        model: from :func:`load_model` or :func:`create_model`.
        name: for the report.

    Raises:
        InvalidInputError: a normalisation that is shared between clips.
    """

    def __init__(self, model: ByolsModel, name: str) -> None:
        check_corpus_normalization(model)
        self.model = model
        self.name = name

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": "model", **describe_model(self.model)}

    def vectors(
        self, segments: Sequence[Segment], on_error: ErrorHandler
    ) -> Iterator[tuple[int, np.ndarray]]:
        for chunk in embed_segments(segments, self.model, None, on_error=on_error):
            yield chunk.index, chunk.record.embedding


class RandomFeatures(ModelFeatures):
    """Scene embeddings of an architecture with random weights: what the architecture alone brings.

    Args:
        like: the model whose architecture it is; each clip is normalised by its own statistics, since
            no others belong to random weights.
        seed: of the weights.
    """

    def __init__(self, like: ByolsModel, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = create_model(like.encoder.name, normalization="clip", **like.encoder.config)
        super().__init__(model.to(like.device), f"random {architecture(like)}")
        self.seed = seed

    @property
    def description(self) -> dict[str, Any]:
        return {**super().description, "kind": "random weights", "seed": self.seed}


class HandmadeFeatures:
    """Log-mel and MFCC statistics; see :mod:`serab_byols.probe.handmade`."""

    name = "log-mel statistics"

    def __init__(self) -> None:
        self.frontend = TorchFrontend()

    @property
    def description(self) -> dict[str, Any]:
        return dict(DESCRIPTION)

    def vectors(
        self, segments: Sequence[Segment], on_error: ErrorHandler
    ) -> Iterator[tuple[int, np.ndarray]]:
        for i, segment in enumerate(segments):
            try:
                if segment.problem:
                    raise AudioFileError(f"{segment.file or '(no name)'}: {segment.problem}")
                with AudioClip(segment.path, segment.start_s, segment.end_s) as clip:
                    samples = clip.read(SAMPLE_RATE_HZ)
            except SerabByolsError as error:
                on_error(segment, error)
                continue
            yield i, handmade_features(samples, self.frontend)


def architecture(model: ByolsModel) -> str:
    """Name and configuration of the encoder, in short: ``default d=512``."""
    return " ".join([model.encoder.name, *(f"{k}={v}" for k, v in model.encoder.config.items())])


def named(models: Sequence[tuple[str | os.PathLike[str], ByolsModel]]) -> list[ModelFeatures]:
    """Features of models under the names of their files, or under the paths where names are the same."""
    short = [os.path.basename(os.fspath(path)) or model.source for path, model in models]
    full = [os.fspath(path) or model.source for path, model in models]
    return [
        ModelFeatures(model, name if short.count(name) == 1 else path)
        for name, path, (_, model) in zip(short, full, models)
    ]


def baselines_of(models: Sequence[ByolsModel], seed: int) -> list[RandomFeatures]:
    """Random weights for every architecture among the models."""
    distinct = {architecture(model): model for model in models}
    return [RandomFeatures(model, seed) for model in distinct.values()]


def compute(
    features: Sequence[Features],
    segments: Sequence[Segment],
    on_error: ErrorHandler,
    progress: Progress | None = None,
) -> tuple[list[dict[Segment, np.ndarray]], set[Segment]]:
    """Vectors of all clips by all features.

    Args:
        features: ways from clips to vectors.
        segments: distinct clips.
        on_error: called once with each clip that cannot be read, and the error.
        progress: called after every clip.

    Returns:
        For each of ``features`` the vectors (D,) by clip, and the clips that were left out. A clip
        that one of them could not read is used by none.
    """
    bad: set[Segment] = set()
    tables: list[dict[Segment, np.ndarray]] = []

    for way in features:
        readable = [segment for segment in segments if segment not in bad]

        def skip(segment: Segment, error: SerabByolsError) -> None:
            bad.add(segment)
            on_error(segment, error)

        table = {}
        for i, vector in way.vectors(readable, skip):
            table[readable[i]] = vector
            if progress is not None:
                progress(f"clips, {way.name}", len(table), len(readable))
        tables.append(table)
    return tables, bad
