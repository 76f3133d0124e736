"""Which clips of a new task train, validate and test: as its manifest says, else at random."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from serab_byols.errors import InvalidInputError
from serab_byols.hear_benchmark.task_folder import MIN_FOLDS
from serab_byols.hear_benchmark.task_manifest import SPLIT_NAMES, SourceClip
from serab_byols.probe.manifest import in_order

VALID_SHARE, TEST_SHARE = 0.1, 0.1
N_DRAWS = 1000
"""Random splits are drawn anew, at most so often, until every label is in every split."""


class TaskSplits(NamedTuple):
    """How a task is split.

    Attributes:
        mode: HEAR's ``split_mode``.
        of_clip: name of the split of each clip.
        words: how it came about.
    """

    mode: str
    of_clip: list[str]
    words: str


def split_clips(
    clips: Sequence[SourceClip], labels: Sequence[set[str]], n_folds: int | None, seed: int
) -> TaskSplits:
    """Split clips by the column ``fold`` or ``split``, else at random.

    Args:
        clips: all of them.
        labels: of each clip, to see that every split has all.
        n_folds: if given, random folds are made, whatever columns there are.
        seed: of random splits. Clips with the same ``group`` stay together.

    Raises:
        InvalidInputError: fewer than three folds, or too few clips for a part.
    """
    if n_folds is not None and n_folds < MIN_FOLDS:
        raise InvalidInputError(f"HEAR's folds are {MIN_FOLDS} or more, got {n_folds}")
    columns = clips[0].columns
    if n_folds is None and "fold" in columns:
        return _by_fold(clips)
    given = [SPLIT_NAMES[clip.columns["split"].lower()] for clip in clips] if "split" in columns else []
    if n_folds is None and set(given) == {"train", "valid", "test"}:
        return TaskSplits("trainvaltest", given, "train, valid and test as in the manifest")
    return _at_random(clips, labels, n_folds, seed, [] if n_folds else given)


def _by_fold(clips: Sequence[SourceClip]) -> TaskSplits:
    folds = in_order({clip.columns["fold"] for clip in clips})
    if len(folds) < MIN_FOLDS:
        raise InvalidInputError(f"HEAR's folds are {MIN_FOLDS} or more; the manifest has {', '.join(folds)}")
    names = {fold: f"fold{i:02d}" for i, fold in enumerate(folds)}
    of_clip = [names[clip.columns["fold"]] for clip in clips]
    return TaskSplits("presplit_kfold", of_clip, f"{len(folds)} folds as in the manifest")


def _at_random(
    clips: Sequence[SourceClip],
    labels: Sequence[set[str]],
    n_folds: int | None,
    seed: int,
    given: Sequence[str],
) -> TaskSplits:
    """Folds of keys (groups, or clips); or valid and test, where they are not given, taken from train."""
    keys = [clip.columns.get("group", f"{i:09d}") for i, clip in enumerate(clips)]
    unit = "groups" if "group" in clips[0].columns else "clips"
    to_share = sorted({key for i, key in enumerate(keys) if not given or given[i] == "train"})
    all_labels = set().union(*labels)
    for draw in range(N_DRAWS):
        shuffled = list(to_share)
        random.Random(f"{seed} {draw}").shuffle(shuffled)
        split_of = _folds(shuffled, n_folds) if n_folds else _parts(shuffled, set(given))
        of_clip = [given[i] if given and given[i] != "train" else split_of[key] for i, key in enumerate(keys)]
        in_split: dict[str, set[str]] = {split: set() for split in of_clip}
        for split, some in zip(of_clip, labels):
            in_split[split] |= some
        if all(some == all_labels for some in in_split.values()):
            break
    words = f"{n_folds} random folds" if n_folds else _words(set(given))
    return TaskSplits(
        "new_split_kfold" if n_folds else "trainvaltest", of_clip, f"{words} of {unit}, seed {seed}"
    )


def _folds(keys: Sequence[str], n_folds: int) -> dict[str, str]:
    if len(keys) < n_folds:
        raise InvalidInputError(f"{n_folds} folds cannot be made of {len(keys)} clips or groups")
    parts = np.array_split(np.arange(len(keys)), n_folds)
    return {keys[i]: f"fold{fold:02d}" for fold, part in enumerate(parts) for i in part}


def _parts(keys: Sequence[str], given: set[str]) -> dict[str, str]:
    """HEAR's 80, 10 and 10 %; where one part is given, the others keep their proportion."""
    valid = 0.0 if "valid" in given else VALID_SHARE
    test = 0.0 if "test" in given else TEST_SHARE
    whole = 1 - (VALID_SHARE if "valid" in given else 0) - (TEST_SHARE if "test" in given else 0)
    n_valid, n_test = (round(len(keys) * share / whole) for share in (valid, test))
    if (valid and not n_valid) or (test and not n_test) or n_valid + n_test >= len(keys):
        raise InvalidInputError(
            f"{len(keys)} clips or groups are too few to take validation and test from: give the split in "
            "a column, or ask for folds"
        )
    names = ["valid"] * n_valid + ["test"] * n_test
    return dict(zip(keys, [*names, *["train"] * (len(keys) - len(names))]))


def _words(given: set[str]) -> str:
    if not given:
        return "random 80, 10 and 10 %"
    drawn = [split for split in ("valid", "test") if split not in given]
    return f"{' and '.join(drawn)} drawn from train"
