"""Which clips train and which test: outer splits for the scores, inner splits to choose C.

No group (a speaker, a recording) is on both sides of an inner or outer split, unless the manifest's
own folds or split put it there; a note says so.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass

import numpy as np

from serab_byols.errors import InvalidInputError
from serab_byols.probe.manifest import SPLIT_COLUMNS, Task, encoded, in_order

N_FOLDS = 5
N_INNER_FOLDS = 3
FEW_GROUPS = 10
N_DRAWS = 10
"""How often the clips of few-shot training are drawn."""

Pairs = list[tuple[np.ndarray, np.ndarray]]
"""Positions of the clips that train and of those that test, int64 (n,) each."""


@dataclass(frozen=True)
class Split:
    """One fit and its test.

    Attributes:
        name: of the fold.
        train, test: positions of clips in the task, int64 (n,).
        drawable: those of ``train`` that few-shot draws are made from, all but the clips marked valid.
        inner: (train, test) pairs within ``train``, to choose C on; empty if there can be none.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    drawable: np.ndarray
    inner: Pairs


@dataclass(frozen=True)
class Plan:
    """The splits of a task.

    Attributes:
        outer, inner: the rules, in words.
        splits: each clip is in the test of at most one.
        notes: what a reader of the scores should know.
    """

    outer: str
    inner: str
    splits: tuple[Split, ...]
    notes: tuple[str, ...]


def make_plan(task: Task, by: str = "auto", n_folds: int = N_FOLDS, seed: int = 0) -> Plan:
    """Choose the splits of a task.

    Args:
        task: from :func:`read_manifest`.
        by: the column that splits, ``"clips"`` for random folds of single clips, or ``"auto"``: the
            first of :data:`SPLIT_COLUMNS` that the task has.
        n_folds: number of random folds where the manifest gives none.
        seed: of the random folds.

    Raises:
        InvalidInputError: too few labels, clips, folds, groups or parts, or no such column.
    """
    if by == "auto":
        by = next((name for name in SPLIT_COLUMNS if name in task.columns), "clips")
    elif by != "clips" and by not in task.columns:
        raise InvalidInputError(
            f"task {task.name!r} has no column {by!r} to split by; of {', '.join(SPLIT_COLUMNS)} "
            f"it has {', '.join(task.columns) or 'none'}"
        )
    if len(set(task.labels)) < 2:
        raise InvalidInputError(
            f"task {task.name!r} has {len(task.labels)} clips of one label: a classifier needs two labels"
        )
    if n_folds < 2:
        raise InvalidInputError(f"there must be at least 2 folds, got {n_folds}")
    names, pairs, outer = _outer_splits(task, by, n_folds, seed)
    labels = encoded(task.labels)
    for name, (train, _) in zip(names, pairs):
        if len(np.unique(labels[train])) < 2:
            raise InvalidInputError(
                f"task {task.name!r}: all training clips of fold {name!r} have the same label"
            )
    column, inner = _inner_rule(task, by)
    return Plan(
        outer=outer,
        inner=inner,
        splits=tuple(
            Split(name, train, test, _drawable(task, by, train), _inner_splits(task, column, train, seed))
            for name, (train, test) in zip(names, pairs)
        ),
        notes=(*_column_notes(task, by), *_group_notes(task, by, pairs), *_label_notes(task, pairs)),
    )


def _outer_splits(task: Task, by: str, n_folds: int, seed: int) -> tuple[list[str], Pairs, str]:
    """Names, positions of clips, and the rule in words."""
    from sklearn.model_selection import LeaveOneGroupOut

    if by == "fold":
        names = in_order(task.columns["fold"])
        if len(names) < 2:
            raise InvalidInputError(f"task {task.name!r} has one fold, {names[0]!r}: it needs two or more")
        pairs = list(LeaveOneGroupOut().split(task.labels, groups=encoded(task.columns["fold"])))
        return (
            names,
            pairs,
            f"{len(names)} folds of the column 'fold', each tested after training on the others",
        )
    if by == "split":
        parts = in_order(task.columns["split"])
        if not {"train", "test"} <= set(parts):
            raise InvalidInputError(
                f"task {task.name!r}: the column 'split' must name clips to train and clips to test, "
                f"it has {', '.join(parts)}"
            )
        return (
            ["test"],
            _predefined(np.array(task.columns["split"]) == "test"),
            "the split of the column 'split'",
        )
    groups = encoded(task.columns["group"]) if by == "group" else None
    pairs = stratified_folds(encoded(task.labels), groups, n_folds, seed)
    if not pairs:
        needed = "clips of a label" if groups is None else "groups"
        raise InvalidInputError(f"task {task.name!r} needs at least two {needed} to be split")
    kind = "of single clips" if groups is None else "that keep groups whole"
    names = [str(i) for i in range(len(pairs))]
    return names, pairs, f"{len(pairs)} random folds {kind}, stratified by label (seed {seed})"


def _inner_rule(task: Task, by: str) -> tuple[str | None, str]:
    """``"split"`` for its valid clips, or the column that inner folds keep whole; and the rule in words."""
    if by == "split" and "valid" in task.columns["split"]:
        return "split", "the clips marked valid, which then train too"
    column = None
    if "group" in task.columns:
        column = "group"
    elif by == "fold" and len(set(task.columns["fold"])) > 2:
        column = "fold"  # given folds separate something, even if the manifest does not say what
    kind = "of single clips" if column is None else f"that keep {column}s whole"
    return column, f"up to {N_INNER_FOLDS} folds {kind}, drawn from the training clips"


def _drawable(task: Task, by: str, train: np.ndarray) -> np.ndarray:
    return train[np.array(task.columns["split"])[train] == "train"] if by == "split" else train


def _inner_splits(task: Task, column: str | None, train: np.ndarray, seed: int) -> Pairs:
    """Splits of the training clips, without those that would train on one label."""
    labels = encoded(task.labels)[train]
    if column == "split":
        pairs = _predefined(np.array(task.columns["split"])[train] == "valid")
    else:
        groups = None if column is None else encoded(task.columns[column])[train]
        pairs = stratified_folds(labels, groups, N_INNER_FOLDS, seed)
    return [(train[inner], train[test]) for inner, test in pairs if len(np.unique(labels[inner])) > 1]


def _predefined(is_test: np.ndarray) -> Pairs:
    from sklearn.model_selection import PredefinedSplit

    return list(PredefinedSplit(np.where(is_test, 0, -1)).split())


def stratified_folds(labels: np.ndarray, groups: np.ndarray | None, n_folds: int, seed: int) -> Pairs:
    """Random folds with balanced labels, fewer where there are not enough groups or clips of a label.

    Args:
        labels: int64 (N,).
        groups: int64 (N,), each kept whole; None where every clip is on its own.
        n_folds: at most.
        seed: of the folds.

    Returns:
        (train, test) pairs; none if there cannot be two folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    most_clips_of_a_label = int(np.bincount(labels).max())
    n_folds = min(n_folds, most_clips_of_a_label, len(labels) if groups is None else len(np.unique(groups)))
    if n_folds < 2:
        return []
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = splitter(n_splits=n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # labels with fewer clips than folds: see the notes
        pairs = [pair for pair in folds.split(labels, labels, groups) if all(map(len, pair))]
    return pairs if len(pairs) > 1 else []


def _column_notes(task: Task, by: str) -> list[str]:
    unused = [name for name in task.columns if name not in (by, "group")]
    if not unused:
        return []
    how = "single clips" if by == "clips" else f"the column {by!r}"
    return [f"split by {how}; the column {' and '.join(map(repr, unused))} was not used"]


def _group_notes(task: Task, by: str, pairs: Pairs) -> list[str]:
    if "group" not in task.columns:
        if by != "clips":
            return []
        return [
            "no groups are given: if clips of a speaker or a recording are in training and in test, the "
            "scores are optimistically biased"
        ]
    notes = []
    group = np.array(task.columns["group"])
    n_groups = len(set(group))
    leaking = sorted({str(g) for train, test in pairs for g in set(group[train]) & set(group[test])})
    if leaking:
        notes.append(
            f"{len(leaking)} of {n_groups} groups have clips in training and in test "
            f"(such as {leaking[0]}): the scores are optimistically biased"
        )
    if n_groups < FEW_GROUPS:
        notes.append(f"only {n_groups} groups: the interval is rough, and rather too narrow than too wide")
    return notes


def _label_notes(task: Task, pairs: Pairs) -> list[str]:
    labels = np.array(task.labels)
    untrained = {str(label) for train, test in pairs for label in set(labels[test]) - set(labels[train])}
    notes = []
    if untrained:
        notes.append(
            f"{', '.join(in_order(untrained))}: in a test without a clip in its training, "
            "where it counts as wrong"
        )
    if len(pairs) > 1:
        rare = [label for label, count in Counter(task.labels).items() if 1 < count < len(pairs)]
        if rare:
            notes.append(f"{', '.join(in_order(rare))}: fewer clips than folds, so not in every test")
    return notes
