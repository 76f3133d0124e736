"""The weights in ``checkpoints/``: their embeddings, what they say of themselves, and their scores."""

import csv
import re

import numpy as np
import pytest
from parity_data import ROOT
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import serab_byols
from serab_byols.checkpoint import DEFAULT_WEIGHTS, read_checkpoint

CHECKPOINTS = [
    path for path in sorted((ROOT / "checkpoints").glob("*.safetensors")) if ".pca" not in path.name
]
EVAL = ROOT.parent / "shared" / "data" / "eval"
NAMES = [path.stem for path in CHECKPOINTS]


def test_the_default_weights_give_the_stored_embeddings():
    stored = np.load(ROOT / "tests" / "golden" / "default_embeddings.npz")
    model = serab_byols.load_model()
    assert len(stored.files) == 5
    for name in stored.files:
        embedding = serab_byols.embed_file(ROOT / "examples" / "clips" / name, model).embedding
        assert embedding.shape == (512,)
        np.testing.assert_allclose(embedding, stored[name], atol=1e-4 * np.abs(stored[name]).max())


def test_all_checkpoints_are_there():
    names = ("audiontt-512-distilled", "audiontt-2048-distilled", "cvt-2048-distilled")
    names += ("audiontt-512-scratch", "audiontt-2048-scratch")
    assert set(NAMES) >= {f"byols-{name}" for name in names}


@pytest.mark.parametrize(("encoder", "name"), DEFAULT_WEIGHTS.items())
def test_the_name_of_an_encoder_loads_its_weights(encoder, name):
    model = serab_byols.load_model(model_name=encoder, offline=True)
    assert (model.encoder.name, model.source) == (encoder, f"{name}.safetensors")
    assert f"weights: {name}.safetensors" in repr(model)


@pytest.mark.parametrize("path", CHECKPOINTS, ids=NAMES)
def test_weights_are_small_and_say_what_they_are(path):
    assert path.stat().st_size < 25e6
    checkpoint = read_checkpoint(path)
    facts = checkpoint.training_facts
    assert facts["licence"] == "MIT"
    assert facts["recipe"]["encoder"] == checkpoint.encoder
    assert facts["crops"] == facts["steps"] * facts["recipe"]["batch_size"]
    assert checkpoint.statistics is not None
    assert (ROOT / facts["card"]).is_file()
    assert path.with_suffix(".loss.png").is_file()


@pytest.mark.parametrize("path", CHECKPOINTS, ids=NAMES)
def test_a_card_has_command_commit_data_and_scores(path):
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    facts = read_checkpoint(path).training_facts
    # Line breaks and where commands may be continued are a matter of taste.
    command = re.sub(r"[\\\s]+", " ", card)
    if d := facts["recipe"]["encoder_config"].get("d"):
        assert f"--size {d}" in command or f"wide.safetensors {d}" in command
    else:
        assert f"--encoder {facts['recipe']['encoder']}" in command
    for option in ("steps", "lr", "batch-size", "warmup-steps"):
        given = [float(number) for number in re.findall(rf"--{option} (\S+)", command)]
        assert facts["recipe"][option.replace("-", "_")] in given
    for word in (facts["commit"][:7], "CC BY-SA", "CC BY 4.0", "Apache-2.0", "CC0", "seed", "arabic_kws20"):
        assert word in card


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_curve_ends_at_the_scores_of_the_card(name):
    with (ROOT / "checkpoints" / "learning_curves.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["weights"] == name and row["seed"] == "42"]
    if name == "byols-audiontt-2048-distilled":  # its curve ends where the weights are averaged with others
        assert rows
        return
    last = max(rows, key=lambda row: int(row["crops"]))
    card = (ROOT / "checkpoints" / f"{name}.md").read_text(encoding="utf-8")
    (scores,) = re.findall(rf"^\| \*\*{name}\*\* \|(.*)$", card, re.MULTILINE)
    stated = [float(number) for number in re.findall(r"0\.\d+", scores)][:3]
    # The curve is of float32, some files are float16: a clip of 600 may change sides.
    assert stated == pytest.approx([float(last[t]) for t in ("keywords", "emotions", "sounds")], abs=0.002)


@pytest.mark.parametrize("kind", ["distilled", "scratch"])
def test_the_wide_weights_are_of_the_stated_width(kind):
    name = f"byols-audiontt-2048-{kind}"
    assert serab_byols.load_model(name).embedding_size == 2048
    card = (ROOT / "checkpoints" / f"{name}.md").read_text(encoding="utf-8")
    assert re.search(r"recipes/widen\.py byols-audiontt-512-\S+ \S+ 2048", card)


@pytest.mark.skipif(not EVAL.is_dir(), reason="the labelled recordings (../shared/data/eval) are not here")
@pytest.mark.parametrize(("task", "at_least"), [("arabic_kws20", 0.86), ("emodb7_2s", 0.72)])
def test_a_linear_probe_of_the_default_weights_reaches(task, at_least):
    with (EVAL / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == task]
    model = serab_byols.load_model()
    records = serab_byols.embed_files([EVAL / row["path"] for row in rows], model)
    x = np.stack([record.embedding for record in records])
    y, folds = (np.array([row[column] for row in rows]) for column in ("label", "fold"))
    n_correct = 0
    for fold in np.unique(folds):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        probe.fit(x[folds != fold], y[folds != fold])
        n_correct += (probe.predict(x[folds == fold]) == y[folds == fold]).sum()
    assert n_correct / len(y) >= at_least
