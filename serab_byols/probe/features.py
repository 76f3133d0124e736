"""What the classifier is trained on: embeddings of models, of random weights, and log-mel statistics."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from serab_byols.corpus.decoding import AudioClip
from serab_byols.corpus.embedding import (
    ErrorHandler,
    check_corpus_normalization,
    embed_segments,
    with_warnings,
)
from serab_byols.corpus.log_mel_statistics import N_STATISTICS, STATISTICS, log_mel_statistics
from serab_byols.corpus.provenance import describe_model
from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError, SerabByolsError
from serab_byols.frontend import MIN_SAMPLES, SAMPLE_RATE_HZ, TorchFrontend
from serab_byols.model import ByolsModel, create_model

Vectors = Iterator[tuple[int, np.ndarray]]
"""Positions of segments, and their features, float32 (D,)."""

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, how much of it is done, and how much there is to do."""


@dataclass(frozen=True)
class FeatureExtractor:
    """A kind of features.

    Attributes:
        name: for the report.
        description: facts for the report, JSON-serialisable.
        extract: features of segments, in their order, without the segments that the error handler gets.
    """

    name: str
    description: dict[str, Any]
    extract: Callable[[Sequence[Segment], ErrorHandler], Vectors]


def model_features(model: ByolsModel, name: str) -> FeatureExtractor:
    """Scene embeddings of a model.

    Raises:
        InvalidInputError: a normalisation that is shared between clips.
    """
    check_corpus_normalization(model)

    def extract(segments: Sequence[Segment], on_error: ErrorHandler) -> Vectors:
        for chunk in with_warnings(embed_segments(segments, model, on_error=on_error)):
            yield chunk.index, chunk.record.embedding

    return FeatureExtractor(name, {"kind": "model", **describe_model(model)}, extract)


def features_of_models(
    models: Sequence[tuple[str | os.PathLike[str], ByolsModel]],
) -> list[FeatureExtractor]:
    """Features of models, named after their files, or their paths where files have the same name."""
    short = [os.path.basename(os.fspath(path)) or model.source for path, model in models]
    full = [os.fspath(path) or model.source for path, model in models]
    return [
        model_features(model, name if short.count(name) == 1 else path)
        for name, path, (_, model) in zip(short, full, models)
    ]


def random_features(models: Sequence[ByolsModel], seed: int = 0) -> list[FeatureExtractor]:
    """Scene embeddings of random weights, for every architecture among the models."""
    features = []
    for name, like in {architecture(model): model for model in models}.items():
        of_random = model_features(random_model(like, seed), f"random {name}")
        of_random.description.update(kind="random weights", seed=seed)
        features.append(of_random)
    return features


def random_model(like: ByolsModel, seed: int) -> ByolsModel:
    """The same architecture with random weights, on the same device.

    Each clip is normalised by its own statistics, since no others belong to random weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(like.encoder.name, normalization="clip", **like.encoder.config)
    return model.to(like.device)


def architecture(model: ByolsModel) -> str:
    """Name of the encoder, its width, and what else is not as usual, in short: ``default d=512``."""
    usual = inspect.signature(type(model.encoder)).parameters
    config = {
        name: value
        for name, value in model.encoder.config.items()
        if name == "d" or (tuple(value) if isinstance(value, list) else value) != usual[name].default
    }
    return " ".join([model.encoder.name, *(f"{name}={value}" for name, value in config.items())])


def log_mel_features() -> FeatureExtractor:
    """Log-mel and MFCC statistics; see :mod:`serab_byols.corpus.log_mel_statistics`."""
    frontend = TorchFrontend()
    facts = {"kind": "log-mel statistics", "features": STATISTICS, "embedding_size": N_STATISTICS}
    extract = _clip_by_clip(SAMPLE_RATE_HZ, lambda samples: clip_statistics(samples, frontend))
    return FeatureExtractor("log-mel statistics", facts, extract)


class HearModule(Protocol):
    """A module of the HEAR common API, or an object with its functions."""

    def load_model(self) -> Any:
        """The model, with ``sample_rate`` and ``scene_embedding_size``."""
        ...

    def get_scene_embeddings(self, audio: torch.Tensor, model: Any, /) -> torch.Tensor:
        """Of (n_clips, n_samples): (n_clips, D)."""
        ...


def hear_module_features(
    module: HearModule, name: str, device: str | torch.device = "cpu"
) -> FeatureExtractor:
    """Scene embeddings of any module of the HEAR common API, clip by clip.

    Whatever it raises for a clip, and embeddings that are not finite, are errors of that clip.

    Raises:
        InvalidInputError: the module has no model with the attributes that HEAR asks for.
    """
    try:
        model = module.load_model()
        if isinstance(model, torch.nn.Module):
            model.to(device)
        rate_hz, size = int(model.sample_rate), int(model.scene_embedding_size)
    except Exception as error:
        raise InvalidInputError(f"the module {name} has no model: {type(error).__name__}: {error}") from error

    def embed(samples: np.ndarray) -> np.ndarray:
        try:
            with torch.no_grad():
                scenes = module.get_scene_embeddings(torch.from_numpy(samples)[None].to(device), model)
            embedding = scenes[0].float().cpu().numpy()
        except Exception as error:
            raise InvalidInputError(f"{name}: {type(error).__name__}: {error}") from error
        if not np.isfinite(embedding).all():
            raise InvalidInputError(f"{name}: the embedding is not finite")
        return embedding

    facts = {"kind": "HEAR module", "module": name, "embedding_size": size, "sample_rate": rate_hz}
    return FeatureExtractor(name, facts, _clip_by_clip(rate_hz, embed))


def _clip_by_clip(
    rate_hz: int, features: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Sequence[Segment], ErrorHandler], Vectors]:
    """For an extractor: features (D,) of a clip (n,) at that rate, float32; errors name the file."""

    def extract(segments: Sequence[Segment], on_error: ErrorHandler) -> Vectors:
        for i, segment in enumerate(segments):
            try:
                segment.check()
                with AudioClip(segment.path, segment.start_s, segment.end_s) as clip:
                    samples = clip.read(rate_hz)
                vector = _named(segment, features, samples)
            except SerabByolsError as error:
                on_error(segment, error)
                continue
            yield i, vector

    return extract


def _named(segment: Segment, features: Callable[[np.ndarray], np.ndarray], samples: np.ndarray) -> np.ndarray:
    try:
        return features(samples)
    except InvalidInputError as error:
        raise InvalidInputError(f"{segment.path}: {error}") from error


def clip_statistics(samples: np.ndarray, frontend: TorchFrontend) -> np.ndarray:
    """Log-mel and MFCC statistics of a clip.

    Args:
        samples: mono at 16 kHz, float32 (n,); zeros are appended if they are too few for the front end.
        frontend: waveform to log-mel.

    Returns:
        float32 (588,).
    """
    waveform = torch.from_numpy(np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples)))))[None]
    return log_mel_statistics(frontend(waveform).double())[0].float().numpy()


def extract_all(
    extractors: Sequence[FeatureExtractor],
    segments: Sequence[Segment],
    on_error: ErrorHandler,
    progress: Progress | None = None,
) -> tuple[list[dict[Segment, np.ndarray]], set[Segment]]:
    """Features of all clips from all extractors.

    Args:
        extractors: kinds of features.
        segments: distinct clips.
        on_error: called once with each clip that cannot be read, and the error.
        progress: called before the first and after every clip.

    Returns:
        For each extractor the features (D,) by clip, and the clips that were left out. A clip that
        one extractor could not read is used with none.
    """
    bad: set[Segment] = set()
    tables: list[dict[Segment, np.ndarray]] = []

    def skip(segment: Segment, error: SerabByolsError) -> None:
        bad.add(segment)
        on_error(segment, error)

    for extractor in extractors:
        readable = [segment for segment in segments if segment not in bad]
        table: dict[Segment, np.ndarray] = {}
        if progress is not None:
            progress(f"clips, {extractor.name}", 0, len(readable))
        for i, vector in extractor.extract(readable, skip):
            table[readable[i]] = vector
            if progress is not None:
                progress(f"clips, {extractor.name}", len(table), len(readable))
        tables.append(table)
    return tables, bad
