"""Which clips train and which are judged: outer splits for the score, inner ones to choose C.

No group (a speaker, a recording) is on both sides of an inner split, nor of an outer one, unless the
manifest's own folds or split put it there, which is noted.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serab_byols.errors import InvalidInputError
from serab_byols.probe.manifest import Task, encoded, in_order

PRECEDENCE = ("fold", "group", "split")
"""Of these columns the first that a task has says how it is split; without any, folds are drawn."""

N_FOLDS = 5
N_INNER_FOLDS = 3
FEW_GROUPS = 10

Indices = np.ndarray
"""Positions of clips in the task, int64 (n,)."""


@dataclass(frozen=True)
class Split:
    """One fit and its test.

    Attributes:
        name: of the fold.
        train, test: clips.
        inner: (train, test) pairs within ``train``, to choose C on; empty if there can be none.
    """

    name: str
    train: Indices
    test: Indices
    inner: tuple[tuple[Indices, Indices], ...]


@dataclass(frozen=True)
class Plan:
    """How a task is judged.

    Attributes:
        by: ``"fold"``, ``"group"``, ``"split"`` or ``"clips"``.
        outer, inner: in words.
        splits: each clip is in the test of at most one.
        clusters: what the confidence interval resamples, int64 (N,): groups, else single clips.
        cluster_name: ``"groups"`` or ``"clips"``.
        notes: what a reader of the scores should know.
    """

    by: str
    outer: str
    inner: str
    splits: tuple[Split, ...]
    clusters: np.ndarray
    cluster_name: str
    notes: tuple[str, ...]


def make_plan(task: Task, by: str = "auto", n_folds: int = N_FOLDS, seed: int = 0) -> Plan:
    """Decide on the splits of a task.

    Args:
        task: from :func:`read_manifest`.
        by: the column that splits, ``"clips"`` for folds drawn from single clips, or ``"auto"``: the
            first of :data:`PRECEDENCE` that the task has.
        n_folds: how many are drawn where the manifest gives none.
        seed: of the drawing.

    Raises:
        InvalidInputError: too few labels, clips, folds, groups or parts, or no such column.
    """
    present = [name for name in PRECEDENCE if getattr(task, name) is not None]
    if by == "auto":
        by = present[0] if present else "clips"
    elif by != "clips" and by not in present:
        has = f"it has {', '.join(present)}" if present else "it has none of them"
        raise InvalidInputError(
            f"task {task.name!r} has no column {by!r} to split by; of {', '.join(PRECEDENCE)} {has}"
        )
    if len(set(task.labels)) < 2:
        raise InvalidInputError(
            f"task {task.name!r} has {len(task.labels)} clips of one label: there is nothing to tell apart"
        )
    if n_folds < 2:
        raise InvalidInputError(f"there must be at least 2 folds, got {n_folds}")
    outer, outer_in_words = _outer(task, by, n_folds, seed)
    splits, inner_in_words = _with_inner(task, by, outer, seed)
    notes = [*_column_notes(by, present), *_leak_notes(task, by, outer), *_label_notes(task, splits)]
    notes += _group_notes(task, by)
    return Plan(
        by=by,
        outer=outer_in_words,
        inner=inner_in_words,
        splits=tuple(splits),
        clusters=np.arange(len(task.labels)) if task.group is None else encoded(task.group),
        cluster_name="clips" if task.group is None else "groups",
        notes=tuple(notes),
    )


Outer = list[tuple[str, Indices, Indices]]


def _outer(task: Task, by: str, n_folds: int, seed: int) -> tuple[Outer, str]:
    """Names, training clips and test clips, and the rule in words."""
    if by == "fold":
        assert task.fold is not None
        outer = _leave_one_out(task, task.fold)
        words = f"{len(outer)} folds of the column 'fold', each judged by what the others trained"
    elif by == "split":
        assert task.split is not None
        outer = [_fixed_split(task, np.array(task.split))]
        words = "the split of the column 'split'"
    else:
        groups = task.group if by == "group" else None
        drawn = drawn_folds(encoded(task.labels), None if groups is None else encoded(groups), n_folds, seed)
        if len(drawn) < 2:
            raise InvalidInputError(
                f"task {task.name!r} needs at least two {'groups' if groups else 'clips of a label'} "
                "to be split"
            )
        outer = [(str(i), train, test) for i, (train, test) in enumerate(drawn)]
        kept = "that keep groups whole" if groups else "of single clips"
        words = f"{len(outer)} folds {kept}, drawn with the labels in balance (seed {seed})"
    _check_training(task, outer)
    return outer, words


def _leave_one_out(task: Task, folds: Sequence[str]) -> Outer:
    names = np.array(folds)
    distinct = in_order(folds)
    if len(distinct) < 2:
        raise InvalidInputError(f"task {task.name!r} has one fold, {distinct[0]!r}: it needs two or more")
    return [(name, np.flatnonzero(names != name), np.flatnonzero(names == name)) for name in distinct]


def _fixed_split(task: Task, parts: np.ndarray) -> tuple[str, Indices, Indices]:
    train, test = np.flatnonzero(parts != "test"), np.flatnonzero(parts == "test")
    if len(test) == 0 or not (parts == "train").any():
        raise InvalidInputError(
            f"task {task.name!r}: the column 'split' must name clips to train and clips to test, "
            f"it has {', '.join(in_order(list(parts)))}"
        )
    return "test", train, test


def _check_training(task: Task, outer: Outer) -> None:
    labels = np.array(task.labels)
    for name, train, _ in outer:
        if len(set(labels[train])) < 2:
            raise InvalidInputError(
                f"task {task.name!r}: all clips that would train for fold {name!r} have one label"
            )


def drawn_folds(
    labels: np.ndarray, groups: np.ndarray | None, n_folds: int, seed: int
) -> list[tuple[Indices, Indices]]:
    """Folds with the labels in balance, fewer where there are not enough groups or clips of a label.

    Args:
        labels: int64 (N,).
        groups: int64 (N,), each kept whole; None where every clip is on its own.
        n_folds: at most.
        seed: of the drawing.

    Returns:
        (train, test) pairs; none if fewer than two folds can be had.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    most_clips_of_a_label = int(np.bincount(labels).max())
    n_folds = min(n_folds, most_clips_of_a_label, len(labels) if groups is None else len(np.unique(groups)))
    if n_folds < 2:
        return []
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = kind(n_splits=n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Labels with fewer clips than folds: noted for the reader in our own words.
        warnings.simplefilter("ignore", UserWarning)
        pairs = list(folds.split(np.zeros(len(labels)), labels, groups))
    return [(train, test) for train, test in pairs if len(train) and len(test)]


def _with_inner(task: Task, by: str, outer: Outer, seed: int) -> tuple[list[Split], str]:
    if by == "split" and task.split is not None and "valid" in task.split:
        is_valid = np.array(task.split) == "valid"
        name, train, test = outer[0]
        pair = (train[~is_valid[train]], train[is_valid[train]])
        inner = _usable(encoded(task.labels), [pair])
        return [Split(name, train, test, inner)], "the clips marked valid, which then train too"
    # Given folds are there to keep something apart, even if the manifest does not say what.
    kept_whole, what = task.group, "groups"
    if kept_whole is None and by == "fold":
        assert task.fold is not None
        kept_whole, what = (task.fold, "folds") if len(set(task.fold)) > 2 else (None, "")
    labels = encoded(task.labels)
    groups = None if kept_whole is None else encoded(kept_whole)
    splits = []
    for name, train, test in outer:
        drawn = drawn_folds(labels[train], None if groups is None else groups[train], N_INNER_FOLDS, seed)
        inner = _usable(
            labels, [(train[inner_train], train[inner_test]) for inner_train, inner_test in drawn]
        )
        splits.append(Split(name, train, test, inner))
    kept = f"that keep {what} whole" if groups is not None else "of single clips"
    return splits, f"up to {N_INNER_FOLDS} folds {kept}, drawn from the training clips"


def _usable(labels: np.ndarray, pairs: list[tuple[Indices, Indices]]) -> tuple[tuple[Indices, Indices], ...]:
    """The pairs whose training clips have more than one label."""
    return tuple((train, test) for train, test in pairs if len(np.unique(labels[train])) > 1 and len(test))


def _column_notes(by: str, present: list[str]) -> list[str]:
    unused = [name for name in present if name != by and name != "group"]
    if not unused:
        return []
    how = "single clips" if by == "clips" else f"the column {by!r}"
    return [f"split by {how}; the column {' and '.join(map(repr, unused))} was not used"]


def _leak_notes(task: Task, by: str, outer: Outer) -> list[str]:
    if task.group is None:
        if by != "clips":
            return []
        return [
            "no groups are given: if a speaker or a recording has several clips, some train and others "
            "test, and the scores flatter"
        ]
    groups = np.array(task.group)
    split_up = sorted({str(g) for _, train, test in outer for g in set(groups[train]) & set(groups[test])})
    if not split_up:
        return []
    return [
        f"{len(split_up)} of {len(set(task.group))} groups have clips in training and in test "
        f"(such as {split_up[0]}): the scores flatter"
    ]


def _label_notes(task: Task, splits: list[Split]) -> list[str]:
    labels = np.array(task.labels)
    never_trained = {
        str(label) for split in splits for label in set(labels[split.test]) - set(labels[split.train])
    }
    notes = []
    if never_trained:
        notes.append(
            f"{', '.join(in_order(never_trained))}: in a test without a clip in its training, "
            "where it counts as wrong"
        )
    if len(splits) > 1:
        rare = [label for label, count in Counter(task.labels).items() if 1 < count < len(splits)]
        if rare:
            notes.append(f"{', '.join(in_order(rare))}: fewer clips than folds, so not in every test")
    return notes


def _group_notes(task: Task, by: str) -> list[str]:
    if task.group is None or len(set(task.group)) >= FEW_GROUPS:
        return []
    return [f"only {len(set(task.group))} groups: the interval is rough, and too narrow rather than too wide"]
