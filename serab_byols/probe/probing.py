"""From a manifest and some models to results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from serab_byols.checkpoint import load_model
from serab_byols.corpus.embedding import ErrorHandler
from serab_byols.corpus.segments import Segment
from serab_byols.display.stage_bar import StageBar
from serab_byols.errors import InvalidInputError, SerabByolsError, missing_extra
from serab_byols.model import ByolsModel
from serab_byols.normalization import NormalizationName
from serab_byols.probe.difference import difference
from serab_byols.probe.features import (
    HearModule,
    Progress,
    extract_all,
    features_of_models,
    hear_module_features,
    log_mel_features,
    random_features,
)
from serab_byols.probe.manifest import read_manifest
from serab_byols.probe.results import ProbeResult
from serab_byols.probe.splitting import N_DRAWS, N_FOLDS, make_plan


def probe(
    manifest: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str] | ByolsModel] = ("",),
    *,
    hear_modules: Mapping[str, HearModule] | None = None,
    random: bool = False,
    log_mel_statistics: bool = False,
    tasks: Sequence[str] = (),
    by: str = "auto",
    n_folds: int = N_FOLDS,
    c: float | None = None,
    shots: int | None = None,
    n_draws: int = N_DRAWS,
    normalization: NormalizationName | Sequence[float] = "auto",
    device: str | torch.device = "cpu",
    seed: int = 0,
    on_error: ErrorHandler | None = None,
    on_progress: Progress | None = None,
    progress: bool = False,
) -> list[ProbeResult]:
    """How well a linear classifier predicts the labels of clips from their embeddings.

    Args:
        manifest: CSV file; see :func:`serab_byols.probe.manifest.read_manifest`.
        models: checkpoints as for :func:`load_model`, or models.
        hear_modules: other features, by a name for the report: modules of the HEAR common API, or what
            :func:`serab_byols.integrations.as_hear_module.as_hear_module` makes of a function or transformer.
        random: also the architectures of the models with random weights.
        log_mel_statistics: also statistics of log-mels and MFCCs over time.
        tasks: names of the tasks to probe; by default all.
        by: ``"fold"``, ``"group"``, ``"split"``, ``"clips"`` or ``"auto"``; see
            :func:`serab_byols.probe.splitting.make_plan`.
        n_folds: number of random folds where the manifest gives none.
        c: inverse strength of the penalty; by default chosen on inner folds.
        shots: also few-shot scores, after training on so many clips of each label: MAEB's protocol with 8.
        n_draws: how often these clips are drawn, at least twice.
        normalization, device: of models that are loaded here, as for :func:`load_model`.
        seed: of random folds, few-shot draws, random weights and the bootstrap.
        on_error: called with the segment and the error of a clip that cannot be read, which is then
            left out of everything; by default the error is raised.
        on_progress: called with the name of a stage, how much of it is done and how much there is to do.
        progress: show a bar for each stage, as :func:`serab_byols.embed_files` does, instead of
            ``on_progress``.

    Returns:
        Task by task a result for every model and baseline, in the order given, each with its difference from
        the first.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        InvalidInputError: a manifest that cannot be probed, or an option that does not fit.
        CheckpointNotFoundError, CheckpointError: a model cannot be loaded.
        AudioFileError: without ``on_error``: a clip cannot be read.
    """
    try:
        import sklearn  # noqa: F401

        from serab_byols.probe.evaluation import evaluate
    except ImportError as error:
        raise missing_extra("scikit-learn", "probe", "probing") from error
    _check_models(models)
    if progress and on_progress is not None:
        raise InvalidInputError("progress=True sets on_progress: give one of them, not both")
    if c is not None and not c > 0:
        raise InvalidInputError(f"C must be positive, got {c:g}")
    if shots is not None and (shots < 1 or n_draws < 2):
        raise InvalidInputError(
            f"few-shot scores need one clip a label or more and two draws or more, got {shots} and {n_draws}"
        )
    chosen_tasks = read_manifest(manifest, tasks)
    for task in chosen_tasks:  # before the work, not after it
        make_plan(task, by, n_folds, seed)
    load = partial(load_model, normalization=normalization, device=device)
    loaded = [("", item) if isinstance(item, ByolsModel) else (item, load(item)) for item in models]
    extractors = features_of_models(loaded)
    for name, module in (hear_modules or {}).items():
        extractors.append(hear_module_features(module, name, device))
    if random:
        extractors += random_features([model for _, model in loaded], seed)
    if log_mel_statistics:
        extractors.append(log_mel_features())
    if not extractors:
        raise InvalidInputError("there is nothing to probe: give a model or ask for a baseline")
    segments = list(dict.fromkeys(segment for task in chosen_tasks for segment in task.segments))
    results = []
    with closing(StageBar(quiet=not progress)) as bar:
        tell = bar if on_progress is None else on_progress
        tables, bad = extract_all(extractors, segments, on_error or _raise, tell)
        for task in (task.without(bad) for task in chosen_tasks):
            if not task.segments:
                raise InvalidInputError(f"task {task.name!r}: none of its clips can be read")
            plan = make_plan(task, by, n_folds, seed)
            first: ProbeResult | None = None
            for extractor, table in zip(extractors, tables):
                result = evaluate(
                    task,
                    plan,
                    np.stack([table[segment] for segment in task.segments]),
                    name=extractor.name,
                    description=extractor.description,
                    c=c,
                    shots=shots,
                    n_draws=n_draws,
                    seed=seed,
                    on_progress=tell,
                )
                if first is None:
                    first = result
                else:
                    result = replace(result, difference=difference(result, first, seed))
                results.append(result)
    return results


def _check_models(models: object) -> None:
    if isinstance(models, (str, bytes, os.PathLike)) or not isinstance(models, Iterable):
        got = type(models).__name__ if isinstance(models, torch.nn.Module) else repr(models)
        raise InvalidInputError(f"probe takes a list of models, got {got}; for one pass [model]")
    if isinstance(models, Mapping) or hasattr(models, "columns"):
        raise InvalidInputError(f"probe takes a list of models, got {type(models).__name__}")


def _raise(_: Segment, error: SerabByolsError) -> None:
    raise error
