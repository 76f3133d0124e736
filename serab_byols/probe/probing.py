"""From a manifest and some models to results."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from serab_byols.checkpoint import load_model
from serab_byols.corpus.embedding import ErrorHandler
from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError, SerabByolsError, missing_extra
from serab_byols.model import ByolsModel
from serab_byols.normalization import NormalizationName
from serab_byols.probe.evaluation import ProbeResult, evaluate
from serab_byols.probe.features import (
    Features,
    HandmadeFeatures,
    Progress,
    baselines_of,
    compute,
    named,
)
from serab_byols.probe.manifest import read_manifest
from serab_byols.probe.splitting import N_FOLDS, make_plan


def probe(
    manifest: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str] | ByolsModel] = ("",),
    *,
    random: bool = False,
    hand_made: bool = False,
    tasks: Sequence[str] = (),
    by: str = "auto",
    n_folds: int = N_FOLDS,
    c: float | None = None,
    normalization: NormalizationName | Sequence[float] = "auto",
    device: str | torch.device = "cpu",
    seed: int = 0,
    on_error: ErrorHandler | None = None,
    on_progress: Progress | None = None,
) -> list[ProbeResult]:
    """How well a linear classifier tells the labels of clips from their embeddings.

    Args:
        manifest: CSV file; see :func:`serab_byols.probe.manifest.read_manifest`.
        models: checkpoints as for :func:`load_model`, or models.
        random: also the architectures of the models with random weights.
        hand_made: also statistics of log-mels and MFCCs.
        tasks: names of the tasks that are wanted; by default all.
        by: ``"fold"``, ``"group"``, ``"split"``, ``"clips"`` or ``"auto"``; see
            :func:`serab_byols.probe.splitting.make_plan`.
        n_folds: how many are drawn where the manifest gives none.
        c: inverse strength of the penalty; by default chosen on inner folds.
        normalization, device: of models that are loaded here, as for :func:`load_model`.
        seed: of folds, of random weights and of the bootstrap.
        on_error: called with the segment and the error of a clip that cannot be read, which is then
            left out of everything; by default the error is raised.
        on_progress: called with what is being done, how much is done and how much there is to do.

    Returns:
        Task by task a result for every model and baseline, in the order given.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        InvalidInputError: a manifest that cannot be probed, or an option that does not fit.
        CheckpointNotFoundError, CheckpointError: a model cannot be loaded.
        AudioFileError: without ``on_error``: a clip cannot be read.
    """
    check_extra()
    if isinstance(models, (str, os.PathLike)):  # a string would be taken letter by letter
        raise InvalidInputError(f"probe takes a list of models, got {models!r}")
    if c is not None and not c > 0:
        raise InvalidInputError(f"C must be positive, got {c:g}")
    wanted = read_manifest(manifest, tasks)
    for task in wanted:  # before the work, not after it
        make_plan(task, by, n_folds, seed)
    ways = _features(models, random, hand_made, normalization, device, seed)
    segments = list(dict.fromkeys(segment for task in wanted for segment in task.segments))
    tables, bad = compute(ways, segments, _raise if on_error is None else on_error, on_progress)
    results = []
    for task in (task.without(bad) for task in wanted):
        if not task.segments:
            raise InvalidInputError(f"task {task.name!r}: none of its clips can be read")
        plan = make_plan(task, by, n_folds, seed)
        for way, table in zip(ways, tables):
            what = f"folds, {task.name}, {way.name}"
            results.append(
                evaluate(
                    task,
                    plan,
                    np.stack([table[segment] for segment in task.segments]),
                    name=way.name,
                    description=way.description,
                    c=c,
                    seed=seed,
                    on_fold=_on_fold(on_progress, what, len(plan.splits)),
                )
            )
    return results


def check_extra() -> None:
    """Find out before the work whether scikit-learn is there.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise missing_extra("scikit-learn", "probe", "probing") from error


def _features(
    models: Sequence[str | os.PathLike[str] | ByolsModel],
    random: bool,
    hand_made: bool,
    normalization: NormalizationName | Sequence[float],
    device: str | torch.device,
    seed: int,
) -> list[Features]:
    loaded: list[tuple[str | os.PathLike[str], ByolsModel]] = []
    for item in models:
        if isinstance(item, ByolsModel):
            loaded.append(("", item))
        else:
            loaded.append((item, load_model(item, normalization=normalization, device=device)))
    ways: list[Features] = [*named(loaded)]
    if random:
        ways += baselines_of([model for _, model in loaded], seed)
    if hand_made:
        ways.append(HandmadeFeatures())
    if not ways:
        raise InvalidInputError("there is nothing to probe: give a model or ask for a baseline")
    return ways


def _raise(_: Segment, error: SerabByolsError) -> None:
    raise error


def _on_fold(progress: Progress | None, what: str, n_folds: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda n_done: progress(what, n_done, n_folds)
