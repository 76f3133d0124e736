"""``serab-byols hear evaluate``: tiny tasks of every kind, for a small foreign module."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from hear_task_makers import GOLDEN_TASKS, RATE_HZ, task_folder, write_module
from parity_data import ROOT

from serab_byols.cli import main
from serab_byols.errors import InvalidInputError
from serab_byols.hear_benchmark import embedding_cache, predictor_stack, task_evaluation
from serab_byols.hear_benchmark.embedding_module import HearModule
from serab_byols.hear_benchmark.event_scores import Event
from serab_byols.hear_benchmark.predictor_stack import PredictorStack
from serab_byols.hear_benchmark.predictor_training import LabelledRows
from serab_byols.hear_benchmark.split_data import SplitData, best_postprocessing, shuffled
from serab_byols.hear_benchmark.task_evaluation import Protocol, evaluate_tasks
from serab_byols.hear_benchmark.task_folder import DataSplit, find_tasks, read_task

pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures("one_thread")

SPLITS = {"train": 60, "valid": 15, "test": 21}
FOLDS = {"fold00": 12, "fold01": 15, "fold02": 18, "fold03": 12}
QUICK = ["--grid", "faster", "--quiet"]
SHORT, LONGER = (
    {
        "evaluation_params": {
            "task_specific_param_grid": {"max_epochs": [n_epochs], "lr": [1e-2], "patience": [n_epochs]}
        }
    }
    for n_epochs in (60, 150)
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, with a foreign module in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    write_module(tmp_path)
    yield tmp_path
    sys.modules.pop("bandmodule", None)


def evaluated(folder, *options):
    assert main(["hear", "evaluate", "bandmodule", "--tasks", "tasks", "-o", "out", *QUICK, *options]) == 0
    return json.loads((folder / "out" / "scores.json").read_text())


def test_a_multiclass_task(folder):
    task_folder(folder / "tasks", "multiclass", SPLITS, **SHORT)
    report = evaluated(folder)
    (result,) = report["results"]
    assert report["scores"] == {"tones_multiclass": result["scores"]["test"]["top1_acc"]}
    assert result["scores"]["test"]["top1_acc"] > 0.9
    assert set(result["scores"]["test"]) >= {"loss", "mAP", "d_prime", "aucroc", "validation_score", "epoch"}
    assert result["n_files"] == SPLITS
    assert result["embedding_size"] == 8
    assert len(result["grid"]) == 8
    best = max(point["validation_score"] for point in result["grid"])
    assert result["grid"][0]["validation_score"] == result["scores"]["test"]["validation_score"] == best
    assert report["evaluation"]["grid"] == "faster"


def test_a_multilabel_task(folder):
    task_folder(folder / "tasks", "multilabel", SPLITS, **SHORT)
    (result,) = evaluated(folder)["results"]
    assert result["primary"] == "mAP"
    assert result["scores"]["test"]["mAP"] > 0.9


def test_an_event_task(folder):
    task_folder(folder / "tasks", "event", {"train": 12, "valid": 4, "test": 4}, duration_s=4.0, **LONGER)
    (result,) = evaluated(folder)["results"]
    scores = result["scores"]["test"]
    assert scores["event_onset_200ms_fms"] > 0.5
    assert scores["event_onset_200ms_fms_precision"] > 0.5
    assert scores["segment_1s_er"] < 0.4
    assert result["postprocessing"]["test"]["median_filter_ms"] == 250


def test_a_task_of_folds(folder):
    task_folder(folder / "tasks", "multiclass", FOLDS, **SHORT)
    report = evaluated(folder)
    (result,) = report["results"]
    assert list(result["scores"]) == list(FOLDS)
    accuracies = [scores["top1_acc"] for scores in result["scores"].values()]
    assert result["aggregated"]["top1_acc_mean"] == pytest.approx(np.mean(accuracies))
    assert result["aggregated"]["top1_acc_std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert report["scores"]["tones_multiclass"] == result["aggregated"]["top1_acc_mean"]


def without_resting_biases(names):
    """Without those of layers that a batch norm follows, which have a scale."""
    return [name for name in names if not (name.endswith(".bias") and name.replace("bias", "scale") in names)]


def as_number(score, infinity):
    """JSON has no infinity."""
    return infinity if score is None else score


@pytest.mark.parametrize("case", GOLDEN_TASKS)
def test_scores_are_those_of_hears_kit(folder, monkeypatch, case):
    """From the same initial weights, without dropout; golden/make_heareval.py says how the kit ran.

    A bias before a batch norm has a gradient of rounding errors alone, which Adam makes steps of: it rests.
    """
    golden = json.loads((ROOT / "tests" / "golden" / "heareval.json").read_text())["cases"][case]
    all_names = PredictorStack._trained_names
    monkeypatch.setattr(
        PredictorStack, "_trained_names", lambda stack: without_resting_biases(all_names(stack))
    )
    monkeypatch.setattr(predictor_stack, "DROPOUT", 0.0)
    kind, arguments = GOLDEN_TASKS[case]
    task_folder(folder / "tasks", kind, **arguments)
    (result,) = evaluated(folder)["results"]
    tried, expected = (
        np.array(sorted((as_number(point["validation_score"], -np.inf), point["epoch"]) for point in grid))
        for grid in (result["grid"], golden["grid"])
    )
    np.testing.assert_allclose(tried, expected, atol=1e-6)
    for split, of_split in golden["scores"].items():
        scores = result["scores"][split]
        assert scores["epoch"] == of_split["epoch"]
        for name, value in of_split.items():
            score = as_number(scores[name.removeprefix("test_")], np.inf)
            assert score == pytest.approx(value, abs=1e-3), name
        assert result["postprocessing"].get(split, {}) == golden["postprocessing"]


def test_folds_are_rotated_as_in_hears_kit(folder):
    task = read_task(task_folder(folder, "multiclass", dict(reversed(FOLDS.items()))))
    splits = task.data_splits()
    assert splits[0] == DataSplit(("fold02", "fold03"), ("fold01",), ("fold00",))
    assert splits[3] == DataSplit(("fold01", "fold02"), ("fold00",), ("fold03",))


def test_selection_by_loss(folder):
    task_folder(
        folder / "tasks",
        "event",
        {"train": 8, "valid": 3, "test": 3},
        duration_s=3.0,
        use_scoring_for_early_stopping=False,
        evaluation_params={
            "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]},
            "task_specific_param_grid": {"max_epochs": [20]},
        },
    )
    (result,) = evaluated(folder)["results"]
    assert result["postprocessing"]["test"] == {"median_filter_ms": 150, "min_duration": 50}
    losses = [point["validation_score"] for point in result["grid"]]
    assert losses == sorted(losses)
    assert min(losses) > 0


def test_several_tasks_one_of_them_and_the_table(folder, capsys):
    task_folder(folder / "tasks", "multiclass", SPLITS)
    task_folder(folder / "tasks", "multilabel", SPLITS)
    arguments = [
        "hear",
        "evaluate",
        "bandmodule",
        "--tasks",
        "tasks",
        "--grid",
        "faster",
        "--grid-points",
        "2",
    ]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "tones_multiclass  top1_acc" in table
    assert "tones_multilabel  mAP" in table
    assert main([*arguments, "--task", "tones_multilabel-v1-full"]) == 0
    assert "multiclass" not in capsys.readouterr().out
    assert set(os.listdir()) - {"__pycache__"} == {"bandmodule.py", "tasks"}  # nothing is left without -o


def test_deterministic_under_a_seed(folder):
    task = read_task(task_folder(folder, "multiclass", SPLITS))
    module = HearModule("bandmodule")

    def run(name, seed):
        return evaluate_tasks(module, [task], folder / name, Protocol("faster", 4, seed))[0]

    first = run("a", 1)
    assert run("b", 1) == first
    assert run("c", 2).grid != first.grid


def test_audio_at_48_khz_is_resampled(folder):
    task_folder(folder / "tasks", "multiclass", SPLITS, rate_hz=48000, **SHORT)
    (result,) = evaluated(folder)["results"]
    assert result["scores"]["test"]["top1_acc"] > 0.9
    task = read_task(folder / "tasks" / "tones_multiclass-v1-full")
    audio = task.read_audio("train", "train_0.wav", RATE_HZ)
    assert audio.shape == (RATE_HZ // 2,)
    original = soundfile.read(task.folder / "48000" / "train" / "train_0.wav", dtype="float32")[0]
    np.testing.assert_allclose(audio[100:-100], original[300:-300:3], atol=0.05)


def test_a_rate_of_its_own_is_read_as_it_is(folder):
    path = task_folder(folder, "multiclass", SPLITS)
    task = read_task(path)
    original = soundfile.read(path / str(RATE_HZ) / "train" / "train_0.wav", dtype="float32")[0]
    np.testing.assert_array_equal(task.read_audio("train", "train_0.wav", RATE_HZ), original)


def test_options_and_weights_reach_load_model(folder):
    task_folder(folder / "tasks", "multiclass", SPLITS)
    (folder / "weights.bin").write_bytes(b"weights")
    report = evaluated(folder, "--model", "weights.bin", "--model-options", '{"offset": 2.0}')
    assert report["evaluation"]["model_options"] == {"offset": 2.0}
    assert len(report["evaluation"]["model"]["sha256"]) == 64
    part = np.load(folder / "out" / "tones_multiclass" / "embeddings" / "train-000000.npz")["embeddings"]
    plain = HearModule("bandmodule").scenes(
        read_task(folder / "tasks" / "tones_multiclass-v1-full").read_audio("train", "train_0.wav", RATE_HZ)[
            None
        ]
    )
    np.testing.assert_allclose(part[0], plain[0] + 2, rtol=1e-5)


def test_our_own_module(folder, tiny_checkpoint):
    task_folder(folder / "tasks", "event", {"train": 3, "valid": 2, "test": 2}, duration_s=1.5)
    task_folder(folder / "tasks", "multiclass", {"train": 6, "valid": 3, "test": 3})
    arguments = ["--tasks", "tasks", "--model", str(tiny_checkpoint), "-o", "out", "--grid-points", "1"]
    options = ["--model-options", '{"normalization": "hear2021"}']
    assert main(["hear", "evaluate", "serab_byols", *arguments, *options, *QUICK]) == 0
    assert len(json.loads((folder / "out" / "scores.json").read_text())["scores"]) == 2


@pytest.mark.parametrize(
    ("duration_s", "rate_hz", "size"),
    [(1.0, 16000, 84), (120.0, 16000, 1), (5.0, 48000, 5), (None, 16000, 1)],
)
def test_batches_are_those_of_hears_kit(duration_s, rate_hz, size):
    assert embedding_cache.batch_size(duration_s, rate_hz) == size


# Resuming.


def test_a_finished_evaluation_is_not_computed_again(folder, monkeypatch):
    task_folder(folder / "tasks", "multiclass", SPLITS)
    before = evaluated(folder)
    monkeypatch.setattr(task_evaluation, "train_predictors", None)
    monkeypatch.setattr(embedding_cache, "_stacked", None)
    assert evaluated(folder) == before


STOPS = """
import sys, time
from serab_byols.cli import main
from serab_byols.hear_benchmark import embedding_cache, task_evaluation

stop_at = sys.argv.pop(1)
n_done = {"_write_part": 0, "_save": 0}

def stops(module, name):
    function = getattr(module, name)

    def stopping(*arguments):
        n_done[name] += 1
        if f"{name} {n_done[name]}" == stop_at:
            print("here", flush=True)
            time.sleep(600)
        function(*arguments)

    setattr(module, name, stopping)

stops(embedding_cache, "_write_part")
stops(task_evaluation, "_save")
main(sys.argv[1:])
"""
"""The command, which stops at some point to be killed there."""


def test_resumes_after_a_kill(folder, monkeypatch):
    """A process is killed while it embeds, another while it trains; a third has only the rest to do."""
    task_folder(folder / "tasks", "multiclass", SPLITS)
    (folder / "stops.py").write_text(STOPS)
    # As in this process: sums in another order can train another predictor.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    def kill_at(place):
        options = ["hear", "evaluate", "bandmodule", "--tasks", "tasks", "-o", "out", *QUICK]
        command = [sys.executable, "stops.py", place, *options]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "here\n"
            process.send_signal(signal.SIGKILL)

    def times_ns(pattern):
        return {path.name: path.stat().st_mtime_ns for path in (folder / "out").rglob(pattern)}

    kill_at("_write_part 2")
    parts = times_ns("*.npz")
    assert list(parts) == ["train-000000.npz"]
    kill_at("_save 6")  # of the third stack
    predictors = times_ns("*.safetensors")
    assert len(predictors) == 5
    assert len(times_ns("*.npz")) == 3

    saved = []
    save = task_evaluation._save
    with monkeypatch.context() as patch:
        patch.setattr(task_evaluation, "_save", lambda *some: (saved.append(some), save(*some)))
        patch.setattr(embedding_cache, "_stacked", None)  # nothing is left to embed
        resumed = evaluated(folder)
    assert len(saved) == 3
    assert times_ns("*.npz").items() >= parts.items()
    assert times_ns("*.safetensors").items() >= predictors.items()
    (folder / "out").rename(folder / "killed")
    unbroken = evaluated(folder)
    assert resumed["results"][0]["hyperparameters"] == unbroken["results"][0]["hyperparameters"]
    assert resumed["scores"] == unbroken["scores"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid", "fast"], "grid 'faster', now it is 'fast'"),
        (["--seed", "7"], "seed 42, now it is 7"),
        (["--model-options", '{"offset": 1}'], "model_options {}, now it is {'offset': 1}"),
    ],
)
def test_the_folder_of_another_evaluation_is_refused(folder, capsys, options, message):
    task_folder(folder / "tasks", "multiclass", {"train": 6, "valid": 3, "test": 3})
    evaluated(folder, "--grid-points", "1")
    arguments = [
        "hear",
        "evaluate",
        "bandmodule",
        "--tasks",
        "tasks",
        "-o",
        "out",
        *QUICK,
        "--grid-points",
        "1",
    ]
    assert main([*arguments, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_task_that_changed_is_refused(folder, capsys):
    path = task_folder(folder / "tasks", "multiclass", {"train": 6, "valid": 3, "test": 3})
    evaluated(folder, "--grid-points", "1")
    audio = path / str(RATE_HZ) / "test" / "test_0.wav"
    soundfile.write(audio, np.zeros(8001), RATE_HZ)
    assert (
        main(
            ["hear", "evaluate", "bandmodule", "--tasks", "tasks", "-o", "out", *QUICK, "--grid-points", "1"]
        )
        == 2
    )
    assert "digest" in capsys.readouterr().err


# What is refused.


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "task_metadata.json",
            {"embedding_type": "frame"},
            "embedding_type is 'frame'; expected one of scene",
        ),
        ("task_metadata.json", {"split_mode": "loo"}, "split_mode is 'loo'"),
        ("task_metadata.json", {"splits": ["train", "test"]}, "expected train, valid and test"),
        ("task_metadata.json", {"splits": ["../train", "valid", "test"]}, "a list of distinct names"),
        ("task_metadata.json", {"sample_duration": -1}, "sample_duration is -1"),
        ("task_metadata.json", {"evaluation": ["wer"]}, "unknown score 'wer'"),
        ("task_metadata.json", {"evaluation": ["segment_1s_er"]}, "expected scores of scene tasks"),
        ("task_metadata.json", {"evaluation": None}, "a list of distinct names"),
        ("task_metadata.json", {"evaluation_params": {"x": 3}}, "grids, with a list of values"),
        ("task_metadata.json", "nonsense", "is not JSON"),
        ("task_metadata.json", [1], "expected an object"),
        ("valid.json", {"valid_0.wav": ["loud"]}, "label 'loud', which the vocabulary lacks"),
        ("valid.json", {"valid_0.wav": []}, "has 0 labels; expected one"),
        ("valid.json", {"valid_0.wav": "low"}, "expected a list"),
        ("valid.json", {"../valid_0.wav": ["low"]}, "not the name of a file"),
        ("labelvocabulary.csv", "idx,label\n0,low\n2,high\n", "with indices from 0"),
        ("labelvocabulary.csv", "index,name\n0,low\n", "columns idx and label"),
    ],
)
def test_bad_folders(folder, file, change, message):
    path = task_folder(folder, "multiclass", {"train": 3, "valid": 3, "test": 3}) / file
    if isinstance(change, dict):
        change = {**json.loads(path.read_text()), **change}
    path.write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(InvalidInputError, match=message):
        read_task(path.parent)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"label": "low", "start": 3}, "expected label, start and end"),
        ({"label": "low", "start": 300, "end": 200}, "an event from 300 to 200 ms"),
        ({"label": "low", "start": "a", "end": 200}, "expected label, start and end"),
        ({"label": "shrill", "start": 1, "end": 200}, "'shrill'"),
    ],
)
def test_bad_events(folder, event, message):
    path = task_folder(folder, "event", {"train": 1, "valid": 1, "test": 1}, duration_s=2.0) / "test.json"
    path.write_text(json.dumps({"test_0.wav": [event]}))
    with pytest.raises(InvalidInputError, match=message):
        read_task(path.parent)


def test_missing_things(folder):
    with pytest.raises(InvalidInputError, match="does not exist"):
        find_tasks(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(InvalidInputError, match=r"no folders with a task_metadata\.json"):
        find_tasks(folder / "empty")
    path = task_folder(folder / "tasks", "multiclass", {"train": 3, "valid": 3, "test": 3})
    assert find_tasks(folder / "tasks") == find_tasks(path) == [path]
    assert find_tasks(folder / "tasks", ["tones_multiclass"]) == [path]
    with pytest.raises(InvalidInputError, match="no task 'speech'; there are tones_multiclass-v1-full"):
        find_tasks(folder / "tasks", ["speech"])
    task = read_task(path)
    with pytest.raises(InvalidInputError, match="audio at 16000 Hz; the module needs 44100"):
        task.audio_rate_hz(44100)
    (path / "valid.json").unlink()
    with pytest.raises(InvalidInputError, match=r"cannot read .*valid\.json"):
        read_task(path)


def status_and_words(capsys, *options):
    status = main(["hear", "evaluate", *options, *QUICK, "--grid-points", "1"])
    return status, capsys.readouterr().err


def test_missing_and_odd_audio(folder, capsys):
    path = task_folder(folder / "tasks", "multiclass", {"train": 6, "valid": 3, "test": 3})
    audio = path / str(RATE_HZ) / "valid" / "valid_1.wav"
    soundfile.write(audio, np.zeros(100), RATE_HZ)
    status, words = status_and_words(capsys, "bandmodule", "--tasks", "tasks", "-o", "out")
    assert status == 2
    assert "valid_0.wav has 8000 samples, valid_1.wav 100" in words
    audio.unlink()
    status, words = status_and_words(capsys, "bandmodule", "--tasks", "tasks", "-o", "out2")
    assert status == 2
    assert "valid_1.wav is missing" in words


def test_files_of_different_lengths(folder):
    path = task_folder(
        folder / "tasks", "multiclass", {"train": 6, "valid": 3, "test": 3}, sample_duration=None
    )
    soundfile.write(path / str(RATE_HZ) / "valid" / "valid_1.wav", np.zeros(3000), RATE_HZ)
    report = evaluated(folder, "--grid-points", "1")
    assert report["results"][0]["n_files"] == {"train": 6, "valid": 3, "test": 3}


def test_the_output_is_not_in_the_tasks(folder, capsys):
    task_folder(folder / "tasks", "multiclass", {"train": 6, "valid": 3, "test": 3})
    for output in ("tasks", "tasks/out"):
        status, words = status_and_words(capsys, "bandmodule", "--tasks", "tasks", "-o", output)
        assert status == 2
        assert "choose another place" in words


FAULTS = {
    "nan": "def get_scene_embeddings(audio, model):\n    return bands(audio, model) * float('nan')\n",
    "shape": "def get_scene_embeddings(audio, model):\n    return bands(audio, model)[:1]\n",
    "type": "def get_scene_embeddings(audio, model):\n    return bands(audio, model).tolist()\n",
    "load": "def load_model():\n    raise RuntimeError('no luck')\n",
    "rate": "Model.sample_rate = 16000.0\n",
    "api": "del get_timestamp_embeddings\n",
    "import": "import nothing_of_this_name\n",
}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "returned NaN or infinity"),
        ("shape", "for 6 clips; expected 2 dimensions"),
        ("type", "returned a list; expected a tensor"),
        ("load", "load_model failed with RuntimeError: no luck"),
        ("rate", "sample_rate 16000.0"),
        ("api", "it lacks get_timestamp_embeddings"),
        ("import", "cannot import the module"),
    ],
)
def test_faulty_modules(folder, capsys, fault, message):
    task_folder(folder / "tasks", "multiclass", {"train": 6, "valid": 3, "test": 3})
    write_module(folder, f"module_with_{fault}", extra="\n\n" + FAULTS[fault])
    status, words = status_and_words(capsys, f"module_with_{fault}", "--tasks", "tasks")
    assert status == 2
    assert message in words


def test_timestamps_must_rise_and_agree(folder):
    shifted = (
        "\n\ndef get_timestamp_embeddings(audio, model):\n    return torch.zeros(len(audio), 4, 8), {}\n"
    )
    audio = np.zeros((2, 8000), dtype=np.float32)
    for name, times, message in (
        ("equal_times", "torch.zeros(len(audio), 4)", "that do not rise"),
        ("few_times", "torch.arange(3.0).expand(len(audio), -1)", r"with \(2, 3\) timestamps"),
    ):
        write_module(folder, name, extra=shifted.format(times))
        with pytest.raises(InvalidInputError, match=message):
            HearModule(name).timestamps(audio)


def test_modules_in_the_working_directory_are_found(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(folder))])
    assert HearModule("bandmodule").sample_rate_hz == RATE_HZ


def test_the_module_is_not_trained_on(folder):
    """Embeddings have no gradient, and the model's parameters are as they were."""
    module = HearModule("bandmodule")
    scenes = module.scenes(np.zeros((2, 8000), dtype=np.float32))
    assert isinstance(scenes, np.ndarray)
    assert scenes.dtype == np.float32
    assert not torch.from_numpy(scenes).requires_grad


def test_the_extra_is_asked_for_before_the_work(folder, capsys, monkeypatch):
    task_folder(folder / "tasks", "multiclass", {"train": 6, "valid": 3, "test": 3})
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    status, words = status_and_words(capsys, "bandmodule", "--tasks", "tasks", "-o", "out")
    assert status == 2
    assert "pip install 'serab-byols[hear]'" in words
    assert not (folder / "out").exists()


def test_files_are_in_the_order_of_hears_kit(folder):
    """As heareval 2021.1.3 shuffled lists of 7, 3 and 5 files, one after the other."""
    task = read_task(task_folder(folder, "multiclass", {"train": 7, "valid": 3, "test": 5}))
    embedded = {
        split: embedding_cache.Embedded(tuple(files), tuple(np.arange(len(files))))
        for split, files in task.truth.items()
    }
    order = {split: [int(row) for row in part.embeddings] for split, part in shuffled(task, embedded).items()}
    assert order == {"train": [4, 2, 1, 0, 5, 3, 6], "valid": [0, 2, 1], "test": [1, 0, 4, 2, 3]}
    assert shuffled(task, embedded)["train"].files[0] == "train_4.wav"


def test_of_equal_postprocessings_the_longest_is_taken(folder):
    task = read_task(task_folder(folder, "event", {"train": 1, "valid": 1, "test": 1}, duration_s=2.0))
    truth = {"a.wav": (Event("low", 500.0, 1500.0),)}
    times = (np.arange(0, 2000, 50, dtype=np.float32),)
    x = torch.zeros(40, 1)
    data = SplitData(LabelledRows(x, torch.zeros(40, 3)), ("a.wav",), times, truth)
    predicted = np.zeros((40, 3))
    predicted[10:30, 1] = 1
    score, facts = best_postprocessing(task, predicted, data)
    assert (score, facts) == (1.0, {"postprocessing": {"median_filter_ms": 250.0, "min_duration": 250.0}})
    predicted[:] = 0
    predicted[10:15, 1] = 1  # 200 ms
    score, facts = best_postprocessing(task, predicted, data)
    assert (score, facts["postprocessing"]["min_duration"]) == (1.0, 125.0)
    predicted[:] = 0  # nothing is detected, and the score no number
    assert np.isnan(best_postprocessing(task, predicted, data)[0])
