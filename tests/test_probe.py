"""The probe's parts: manifests, splits, the classifier, scores and intervals, on data with known answers."""

import re

import numpy as np
import pytest

from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError
from serab_byols.probe.bootstrap import bootstrap_intervals
from serab_byols.probe.manifest import Task, encoded, in_order, read_manifest
from serab_byols.probe.splitting import N_INNER_FOLDS, make_plan

pytest.importorskip("sklearn")
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from serab_byols.probe.evaluation import (
    C_GRID,
    FALLBACK_C,
    evaluate,
    fit_split,
    unweighted_average_recall,
)


def task_of(labels, **columns):
    """A task of clips that are never read."""
    segments = tuple(Segment(f"{i}.wav", f"{i}.wav") for i in range(len(labels)))
    return Task("planted", segments, tuple(labels), {name: tuple(v) for name, v in columns.items()})


def planted(n_clips=90, n_labels=3, n_features=8, distance=8.0, seed=0):
    """Labels, and features (n_clips, n_features) in a cloud of unit variance a label."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(n_clips) % n_labels
    centres = distance * np.eye(n_labels, n_features)
    return [f"label {k}" for k in numbers], centres[numbers] + rng.normal(size=(n_clips, n_features))


def result_of(task, features, by="auto", c=0.1, **options):
    plan = make_plan(task, by)
    return evaluate(task, plan, features, name="planted", description={}, c=c, **options)


# Manifests


@pytest.fixture
def manifest(tmp_path):
    def write(text):
        path = tmp_path / "sheet.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_manifest_is_read_task_by_task(manifest):
    path = manifest(
        "path, Label,task,fold,split,group,other\n"
        "a.wav, happy ,moods,0,,x,1\n/b.wav,sad,moods,1,,y,\n"
        "c.wav,dog,sounds,,train,,\nd.wav,cat,sounds,,Val,,\n"
    )
    moods, sounds = read_manifest(path)
    assert (moods.name, moods.labels) == ("moods", ("happy", "sad"))
    assert moods.columns == {"fold": ("0", "1"), "group": ("x", "y")}
    assert [str(s.path) for s in moods.segments] == [str(path.parent / "a.wav"), "/b.wav"]
    assert sounds.columns == {"split": ("train", "valid")}
    assert read_manifest(path, ["sounds"]) == [sounds]


def test_without_a_task_column_the_file_gives_the_name(manifest):
    (task,) = read_manifest(manifest("\ufeffpath,label,start,end\na.wav,x,0,1\na.wav,y,1,2.5\n"))
    assert task.name == "sheet"
    assert [(s.start_s, s.end_s) for s in task.segments] == [(0, 1), (1, 2.5)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "column"),
        ("path,label\n", "lists no clips"),
        ("path,fold\na.wav,0\n", "needs a column named 'label'; it has path, fold"),
        ("path,label\na.wav,x\nb.wav,\nc.wav\n", "label is empty in row 2, 3"),
        ("path,label\na.wav,x\na.wav,y\n", "lists clips twice.*a.wav"),
        ("path,label,fold\na.wav,x,0\nb.wav,y,\n", "'fold' must be filled.*row 2"),
        ("path,label,split\na.wav,x,train\nb.wav,y,check\n", "train, valid or test, got 'check'"),
        ("path,label,task\na.wav,x,\n", "row 1: the task is empty"),
    ],
)
def test_manifests_that_cannot_be_probed(manifest, text, says):
    with pytest.raises(InvalidInputError, match=says):
        read_manifest(manifest(text))


def test_names_that_do_not_exist(manifest, tmp_path):
    path = manifest("path,label,task\na.wav,x,one\nb.wav,x,two\n")
    with pytest.raises(InvalidInputError, match="no task 'three'; it has one, two"):
        read_manifest(path, ["one", "three"])
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_manifest(tmp_path / "nowhere.csv")
    with pytest.raises(InvalidInputError, match=r"ends in \.csv"):
        read_manifest(tmp_path / "a.wav")


def test_numbers_are_sorted_as_numbers():
    assert in_order(["10", "9", "2", "9"]) == ["2", "9", "10"]
    assert in_order(["b", "10", "9"]) == ["10", "9", "b"]
    np.testing.assert_array_equal(encoded(["10", "2", "10"]), [1, 0, 1])


# Splits


@pytest.mark.parametrize(
    ("present", "by", "expected", "unused"),
    [
        (("fold", "group", "split"), "auto", "3 folds of the column 'fold'", "'split'"),
        (("group", "split"), "auto", "5 random folds that keep groups whole", "'split'"),
        (("split",), "auto", "the split of the column 'split'", None),
        ((), "auto", "5 random folds of single clips", None),
        (("fold", "split"), "split", "the split of the column 'split'", "'fold'"),
    ],
)
def test_the_first_column_there_is_splits(present, by, expected, unused):
    columns = {
        "fold": ["0", "1", "2"] * 8,
        "group": [str(i // 4) for i in range(24)],
        "split": ["train", "train", "test", "test"] * 6,
    }
    plan = make_plan(task_of(["a", "b"] * 12, **{name: columns[name] for name in present}), by)
    assert plan.outer.startswith(expected)
    notes = [note for note in plan.notes if "was not used" in note]
    assert [f"the column {unused} was not used" in note for note in notes] == ([True] if unused else [])


def test_given_folds_are_the_folds():
    folds = ["0", "1", "2", "10"] * 6
    plan = make_plan(task_of(["a", "a", "a", "a", "b", "b", "b", "b"] * 3, fold=folds))
    assert [split.name for split in plan.splits] == ["0", "1", "2", "10"]
    for split in plan.splits:
        assert {folds[i] for i in split.test} == {split.name}
        assert len(split.train) + len(split.test) == len(folds)
        for train, test in split.inner:  # without groups, other folds are kept whole
            assert not {folds[i] for i in train} & {folds[i] for i in test}
            assert set(train) | set(test) <= set(split.train)


@pytest.mark.parametrize("by", ["fold", "group"])
def test_groups_stay_whole_outside_and_inside(by):
    rng = np.random.default_rng(0)
    group = [str(i) for i in rng.integers(0, 20, 120)]
    labels = [str(i) for i in rng.integers(0, 3, 120)]
    columns = {"group": group, **({"fold": [str(int(g) % 4) for g in group]} if by == "fold" else {})}
    plan = make_plan(task_of(labels, **columns))
    tested = np.concatenate([split.test for split in plan.splits])
    np.testing.assert_array_equal(np.sort(tested), np.arange(120))
    for split in plan.splits:
        assert not {group[i] for i in split.train} & {group[i] for i in split.test}
        assert len(split.inner) == N_INNER_FOLDS
        assert sorted(np.concatenate([test for _, test in split.inner])) == sorted(split.train)
        for train, test in split.inner:
            assert not {group[i] for i in train} & {group[i] for i in test}
    assert not [note for note in plan.notes if "biased" in note]


def test_a_given_split_chooses_on_valid_and_trains_on_both():
    parts = ["train", "train", "valid", "valid", "test", "test"] * 2
    task = task_of(["a", "b"] * 6, split=parts)
    (split,) = make_plan(task).splits
    np.testing.assert_array_equal(split.test, [4, 5, 10, 11])
    np.testing.assert_array_equal(split.train, [0, 1, 2, 3, 6, 7, 8, 9])
    ((train, test),) = split.inner
    np.testing.assert_array_equal(train, [0, 1, 6, 7])
    np.testing.assert_array_equal(test, [2, 3, 8, 9])


def test_folds_drawn_from_clips_are_balanced_and_seeded():
    labels = ["a"] * 50 + ["b"] * 20
    plan = make_plan(task_of(labels), seed=3)
    assert len(plan.splits) == 5
    assert all((np.array(labels)[split.test] == "a").sum() == 10 for split in plan.splits)
    tests = [[list(split.test) for split in make_plan(task_of(labels), seed=seed).splits] for seed in (3, 4)]
    assert tests[0] == [list(split.test) for split in plan.splits] != tests[1]


@pytest.mark.parametrize(
    ("labels", "columns", "note"),
    [
        (["a", "b"] * 9, {}, "no groups are given.*optimistically biased"),
        (["a", "b"] * 9 + ["lone"], {}, "lone: in a test without a clip in its training"),
        (["a", "b"] * 9 + ["rare"] * 2, {}, "rare: fewer clips than folds"),
        (["a", "b"] * 6, {"group": list("xxxxyyyyzzzz")}, "only 3 groups"),
        (["a", "b"] * 4, {"fold": list("00112233"), "group": list("xxyyyzzz")}, r"2 of 3 .*\(such as y\)"),
    ],
)
def test_what_a_reader_should_know_is_noted(labels, columns, note):
    assert any(re.match(note, line) for line in make_plan(task_of(labels, **columns)).notes)


@pytest.mark.parametrize(
    ("labels", "columns", "options", "says"),
    [
        ("aaaaaa", {}, {}, "clips of one label"),
        ("abc", {}, {}, "two clips of a label"),
        ("abab", {"group": "xxxx"}, {}, "two groups"),
        ("abab", {"fold": "0000"}, {}, "one fold"),
        ("aabb", {"fold": "0011"}, {}, "have the same label"),
        ("abab", {"split": ["train"] * 4}, {}, "it has train"),
        ("abab", {"group": "xyxy"}, {"by": "fold"}, "no column 'fold'.*it has group"),
        ("abab", {}, {"by": "split"}, "it has none"),
        ("abab", {}, {"n_folds": 1}, "at least 2 folds, got 1"),
    ],
)
def test_tasks_that_cannot_be_split(labels, columns, options, says):
    with pytest.raises(InvalidInputError, match=says):
        make_plan(task_of(labels, **columns), **options)


# The classifier


def test_separable_labels_are_always_correctly_classified():
    labels, features = planted(60)
    result, again = (result_of(task_of(labels), features, c=None) for _ in range(2))
    assert (result.accuracy, result.uar) == (1.0, 1.0)
    np.testing.assert_array_equal(result.confusion, 20 * np.eye(3))
    assert {fold.c for fold in result.folds} == {0.01}  # 0.1 and 1 are as good
    assert [fold.n_test for fold in result.folds] == [12] * 5
    assert (result.folds, result.predictions) == (again.folds, again.predictions)
    assert result.accuracy_interval == again.accuracy_interval


def test_labels_without_a_pattern_are_classified_by_chance():
    labels, features = planted(400)
    labels = list(np.random.default_rng(1).permutation(labels))
    # A fixed split: stratified folds leave each test the labels that its training has fewer of, and
    # a classifier that learns nothing but their frequencies falls below chance.
    result = result_of(task_of(labels, split=["train", "test"] * 200), features)
    low, high = result.accuracy_interval
    assert low < 1 / 3 < high
    assert low < result.accuracy < high
    assert result.chance == pytest.approx(1 / 3, abs=0.05)


def test_a_group_that_leaks_would_bias_the_scores():
    """Features know the speaker and nothing of the label, which is the speaker's own."""
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(40), 6)
    labels = np.array(["a", "b"])[rng.permutation(np.arange(40) % 2)][speaker]
    features = rng.normal(size=(40, 60))[speaker] + 0.01 * rng.normal(size=(240, 60))
    leaking = result_of(task_of(labels), features)
    kept_whole = result_of(task_of(labels, group=[str(s) for s in speaker]), features)
    assert leaking.accuracy == 1.0
    assert kept_whole.accuracy < 0.7
    assert any("optimistically biased" in note for note in leaking.notes)


def test_c_falls_back_where_there_is_nothing_to_choose_on():
    labels, features = planted(12, 2)
    fold = ["0"] * 6 + ["1"] * 6
    task = task_of(labels, fold=fold, group=["x" if f == "0" else "y" for f in fold])
    result = result_of(task, features, c=None)
    assert {f.c for f in result.folds} == {FALLBACK_C}
    assert any("too few clips or groups to choose C on" in note for note in result.notes)
    assert not any("choose C" in note for note in result_of(task, features, c=0.1).notes)


@pytest.mark.parametrize("n_features", [10, 100])
def test_predictions_are_those_of_the_plain_regression(n_features):
    """Fewer features than training clips, and more, of any scale; C is chosen as by a grid search."""
    labels, features = planted(60, 4, n_features, distance=3.0, seed=1)
    features, truth = features * np.logspace(-3, 3, n_features) + 5, encoded(labels)
    (split, *_) = make_plan(task_of(labels)).splits
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    search = GridSearchCV(plain, {"logisticregression__C": C_GRID}, cv=split.inner, refit=False)
    plain.set_params(**search.fit(features, truth).best_params_)
    expected = plain.fit(features[split.train], truth[split.train]).predict(features[split.test])
    fitted = fit_split(features, truth, split)
    assert {"logisticregression__C": fitted.c} == search.best_params_
    assert fitted.c > C_GRID[0]
    np.testing.assert_array_equal(fitted.predicted, expected)
    assert (expected != truth[split.test]).any()


def test_a_label_that_never_trains_counts_as_wrong():
    labels, features = planted(40, 2)
    labels += ["new"] * 4
    features = np.concatenate([features, np.full((4, 8), 4.0)])
    task = task_of(labels, split=["train"] * 30 + ["test"] * 14)
    result = result_of(task, features)
    assert result.accuracy == pytest.approx(10 / 14)
    assert result.uar == pytest.approx(2 / 3)
    assert any(note.startswith("new: in a test without") for note in result.notes)


def test_predictions_name_their_clips():
    labels, features = planted(30, distance=1.0)
    result = result_of(task_of(labels), features)
    assert sorted(int(p.file[:-4]) for p in result.predictions) == list(range(30))
    assert all(p.label == labels[int(p.file[:-4])] for p in result.predictions)
    right = sum(p.label == p.predicted for p in result.predictions)
    assert result.accuracy == pytest.approx(right / 30)


# Scores


def test_unweighted_average_recall_by_hand():
    truth = np.array([0] * 8 + [1] * 2)
    predicted = np.array([0] * 8 + [2, 1])
    assert unweighted_average_recall(truth, predicted) == pytest.approx((1 + 0.5) / 2)


@pytest.mark.parametrize(("clips_per_speaker", "rel"), [(1, 0.05), (20, 0.15)])
def test_intervals_are_those_of_the_binomial_of_independent_speakers(clips_per_speaker, rel):
    truth = np.zeros(400, dtype=int)
    predicted = (np.arange(400) >= 300).astype(int)
    (low, high), _ = bootstrap_intervals(truth, predicted, np.arange(400) // clips_per_speaker)
    half_width = 1.96 * np.sqrt(0.75 * 0.25 / (400 / clips_per_speaker))
    assert high - low == pytest.approx(2 * half_width, rel=rel)
    assert (high + low) / 2 == pytest.approx(0.75, abs=0.03)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        truth = (rng.random(150) < 0.3).astype(int)
        skill = np.array([0.9, 0.6])[truth]  # so that the expected UAR is 0.75, the accuracy 0.81
        predicted = np.where(rng.random(150) < skill, truth, 1 - truth)
        _, uar = bootstrap_intervals(truth, predicted, np.arange(150), n_resamples=200)
        covered += uar.low <= 0.75 <= uar.high
    assert 0.87 <= covered / 100 <= 1


def test_one_cluster_has_no_interval():
    truth = np.array([0, 1, 0, 1])
    assert bootstrap_intervals(truth, truth, np.zeros(4, dtype=int)) is None
    labels, features = planted(40, 2)
    task = task_of(labels, split=["train"] * 30 + ["test"] * 10, group=["x"] * 30 + ["y"] * 10)
    result = result_of(task, features, by="split")
    assert result.accuracy_interval is None
    assert any("there is no interval" in note for note in result.notes)


def test_a_paired_interval_is_that_of_the_difference_of_single_clips():
    """McNemar's variance, (b + c - (b - c)^2 / n) / n^2: b clips only one gets right, c only the other."""
    n, b, c = 400, 60, 30
    truth = np.zeros(n, np.int64)
    ours, other = truth.copy(), truth.copy()
    ours[200:300], other[200:300] = 1, 1  # hard for both
    other[:b], ours[b : b + c] = 1, 1
    interval, _ = bootstrap_intervals(truth, ours, np.arange(n), other=other)
    std = np.sqrt(b + c - (b - c) ** 2 / n) / n
    assert np.mean(interval) == pytest.approx((b - c) / n, abs=0.01)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * std, rel=0.1)
    alone = bootstrap_intervals(truth, ours, np.arange(n))[0]
    assert interval.high - interval.low < 0.8 * np.sqrt(2) * (alone.high - alone.low)


def test_predictions_that_are_the_same_do_not_differ():
    truth, predicted, speakers = np.arange(40) % 4, np.arange(40) % 3, np.arange(40) // 8
    for interval in bootstrap_intervals(truth, predicted, speakers, other=predicted):
        assert interval == (0, 0)
