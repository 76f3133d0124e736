"""Few-shot scores: what is drawn, what is fitted, and how it is reported."""

import json

import numpy as np
import pytest
from sounds import tone, voice, write

from serab_byols import cli
from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError
from serab_byols.probe import as_json, as_text, probe
from serab_byols.probe.manifest import Task, encoded
from serab_byols.probe.splitting import make_plan

pytest.importorskip("sklearn")
from sklearn.linear_model import LogisticRegression

from serab_byols.probe.evaluation import evaluate
from serab_byols.probe.few_shot import draws, few_shot

pytestmark = pytest.mark.usefixtures("one_thread")


def task_of(labels, **columns):
    segments = tuple(Segment(f"{i}.wav", f"{i}.wav") for i in range(len(labels)))
    return Task(
        "planted",
        segments,
        tuple(map(str, labels)),
        {name: tuple(map(str, v)) for name, v in columns.items()},
    )


def planted(n_clips=120, n_labels=3, distance=1.0, seed=0):
    """Labels, and features (n_clips, 8) in a cloud of unit variance a label."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(n_clips) % n_labels
    features = distance * np.eye(n_labels, 8)[numbers] + rng.normal(size=(n_clips, 8))
    return numbers, features.astype(np.float32)


def test_draws_are_those_of_mteb():
    """Written down clip by clip, as the protocol states it."""
    labels, _ = planted(60)
    drawable = np.arange(3, 57)
    order = drawable.tolist()
    for chosen in draws(labels, drawable, 4, 3, 42):
        np.random.RandomState(42).shuffle(order)
        counts, expected = {}, []
        for i in order:
            counts[labels[i]] = counts.get(labels[i], 0) + 1
            if counts[labels[i]] <= 4:
                expected.append(i)
        assert chosen.tolist() == expected
        assert np.bincount(labels[chosen]).tolist() == [4, 4, 4]


def test_draws_differ_and_depend_on_the_seed():
    labels, _ = planted(60)
    one, two, other = (
        [set(chosen.tolist()) for chosen in draws(labels, np.arange(60), 4, 3, seed)] for seed in (0, 0, 1)
    )
    assert one == two
    assert one != other
    assert one[0] != one[1] != one[2]


def test_scores_are_those_of_a_plain_regression_on_what_was_drawn():
    labels, features = planted()
    plan = make_plan(task_of(labels, fold=np.arange(120) // 40 % 3))
    result = few_shot(features, labels, plan, 5, 4, 7)
    correct = np.zeros(4)
    for split in plan.splits:
        for draw, chosen in enumerate(draws(labels, split.train, 5, 4, 7)):
            assert not set(chosen) & set(split.test)
            fit = LogisticRegression(max_iter=100, random_state=7).fit(features[chosen], labels[chosen])
            correct[draw] += (fit.predict(features[split.test]) == labels[split.test]).sum()
    assert result.accuracies == pytest.approx(correct / 120)
    assert result.accuracy == pytest.approx(correct.mean() / 120)
    assert result.accuracy_std == pytest.approx((correct / 120).std(ddof=1))
    assert 0.5 < result.accuracy < 1
    assert result.accuracy_std > 0
    assert (result.n_fits, result.n_unfinished) == (12, 0)


def test_valid_clips_are_not_drawn():
    labels, _ = planted(60)
    parts = np.array(["train", "valid", "test"])[np.arange(60) // 3 % 3]
    (split,) = make_plan(task_of(labels, split=parts)).splits
    assert set(parts[split.drawable]) == {"train"}
    assert set(parts[split.train]) == {"train", "valid"}
    (by_fold, *_) = make_plan(task_of(labels, fold=parts, split=parts), by="fold").splits
    assert by_fold.drawable.tolist() == by_fold.train.tolist()


def test_a_label_with_few_clips_is_noted():
    labels, features = planted(30, distance=8)
    labels[-1] = 3
    task = task_of(labels, fold=np.arange(30) // 3 % 2)
    assert (encoded(task.labels) == labels).all()
    options = {"name": "x", "description": {}, "c": 1.0, "n_draws": 2}
    few, enough = (evaluate(task, make_plan(task), features, shots=n, **options) for n in (8, 1))
    assert "few-shot: a label has only 1 training clips in a fold, all of them are used" in few.notes
    assert not any("few-shot" in note for note in enough.notes)


def test_unfinished_fits_are_noted():
    labels, features = planted(60, distance=0.5)
    task = task_of(labels, fold=np.arange(60) // 3 % 2)
    badly_scaled = features * np.logspace(-2, 3, 8)
    result = evaluate(
        task, make_plan(task), badly_scaled, name="x", description={}, c=1.0, shots=8, n_draws=2
    )
    assert result.few_shot.n_unfinished > 0
    assert f"{result.few_shot.n_unfinished} of 4 few-shot fits stopped at 100 iterations" in result.notes


def test_nothing_is_drawn_unless_asked_for():
    labels, features = planted(30)
    task = task_of(labels, fold=np.arange(30) // 3 % 2)
    result = evaluate(task, make_plan(task), features, name="x", description={}, c=1.0)
    assert result.few_shot is None
    assert "few-shot" not in result.protocol
    assert "clips a label" not in as_text([result])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    lines = ["path,label,fold"]
    for i in range(16):
        samples = tone(400 + 50 * i, 0.2, 16000) if i % 2 else voice(i, 0.2)
        write(folder / f"{i}.wav", samples)
        lines.append(f"{i}.wav,{'tone' if i % 2 else 'buzz'},{i // 8}")
    (folder / "clips.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "clips.csv"


def test_both_protocols_are_in_the_table_and_in_the_json(corpus, tiny_checkpoint, tmp_path, capfd):
    out = tmp_path / "out.json"
    options = ["--c", "0.1", "--shots", "2", "--draws", "3", "--log-mel-statistics", "--json", str(out)]
    assert cli.main(["probe", str(corpus), "--model", str(tiny_checkpoint), *options]) == 0
    shown = capfd.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "few-shot: 2 training clips a label, drawn 3 times (seed 0); features" in shown
    report = json.loads(out.read_text())
    for result in report["results"]:
        few = result["few_shot"]
        assert few["accuracy"] == pytest.approx(np.mean(few["accuracies"]))
        assert len(few["accuracies"]) == len(few["uars"]) == 3
        assert (
            f"    2 clips a label: accuracy {few['accuracy']:.3f} ± {few['accuracy_std']:.3f}, UAR" in shown
        )
        assert shown.index("accuracy by fold") < shown.index("2 clips a label: accuracy")
    assert report == {
        **json.loads(
            json.dumps(
                as_json(probe(corpus, [tiny_checkpoint], log_mel_statistics=True, c=0.1, shots=2, n_draws=3))
            )
        ),
        "manifest": str(corpus),
    }


@pytest.mark.parametrize(("shots", "draws"), [(0, 10), (8, 1)])
def test_impossible_numbers(corpus, tiny_model, shots, draws):
    with pytest.raises(InvalidInputError, match=f"two draws or more, got {shots} and {draws}"):
        probe(corpus, [tiny_model], shots=shots, n_draws=draws)
