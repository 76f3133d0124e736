"""A pretraining as a user runs it: files in, weights out; stopped and resumed; refused with a reason."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from sounds import voice, write

import serab_byols
from serab_byols.cli import main
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from serab_byols.encoders import ENCODERS
from serab_byols.errors import CheckpointError, DivergedError, InvalidInputError
from serab_byols.pretrain import Machine, PretrainConfig, pretrain
from serab_byols.pretrain.training_log import append_row, keep_rows_before

pytestmark = pytest.mark.usefixtures("one_thread")

N_STEPS = 10
TINY = ["--crop-s", "0.3", "--batch-size", "4", "--mixup-memory", "8", "--threads", "1"]
SMALL = PretrainConfig(encoder_config={"d": 4}, crop_s=0.3, batch_size=4, mixup_memory=8, steps=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio")
    for seed in range(5):
        write(path / f"{seed}.wav", voice(seed, seconds=0.4 + 0.4 * seed))
    return path


def command(folder, weights, *options):
    """A training of ten steps of the narrowest AudioNTT; later options replace earlier ones."""
    size = [] if {"--encoder", "--init"} & set(options) else ["--size", "4"]
    return ["pretrain", str(folder), "-o", str(weights), "--steps", str(N_STEPS), *size, *TINY, *options]


def train(*arguments):
    return main(command(*arguments))


def quiet(*_):
    pass


def log_of(weights):
    with weights.with_suffix(".log.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def losses_of(weights):
    return [row["loss"] for row in log_of(weights)]


def state_of(weights):
    return serab_byols.load_model(weights).encoder.state_dict()


def assert_same_training(one, other):
    """The very losses, weights and statistics."""
    assert losses_of(one) == losses_of(other)
    torch.testing.assert_close(state_of(one), state_of(other), rtol=0, atol=0)
    assert serab_byols.load_model(one).statistics == serab_byols.load_model(other).statistics


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """Ten steps in one go, as typed."""
    weights = tmp_path_factory.mktemp("run") / "a.safetensors"
    assert train(folder, weights) == EXIT_OK
    return weights


@pytest.fixture
def weights(tmp_path):
    return tmp_path / "a.safetensors"


def test_weights_log_and_plot_are_written(finished, folder):
    model = serab_byols.load_model(finished)
    assert serab_byols.embed_file(folder / "1.wav", model).embedding.shape == (4,)
    facts = model.training_facts
    assert (facts["steps"], facts["crops"], facts["corpus"]["clips"]) == (10, 40, 5)
    assert (facts["method"], facts["recipe"]["crop_s"]) == ("BYOL-S", 0.3)
    rows = log_of(finished)
    assert [row["step"] for row in rows] == list(range(N_STEPS))
    assert set(rows[0]) == {"step", "loss", "byol", "spread", "lr", "crops_per_s"}
    assert all(0 <= row["loss"] <= 8 for row in rows)
    assert finished.with_suffix(".loss.png").read_bytes().startswith(b"\x89PNG")
    assert not finished.with_suffix(".errors.csv").exists()
    frontend = serab_byols.create_model(d=4).frontend
    clips = [torch.from_numpy(voice(seed, seconds=0.4 + 0.4 * seed)) for seed in range(5)]
    mean = np.mean([float(frontend(clip[None]).mean()) for clip in clips])
    assert abs(model.statistics.mean - mean) < 0.8


def test_the_same_command_and_seed_give_the_same_losses(finished, folder, tmp_path):
    """Whatever is drawn beside, and another seed gives others."""
    again, other, picture = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "views.png"))
    assert train(folder, again, "--views", str(picture)) == EXIT_OK
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert_same_training(again, finished)
    assert train(folder, other, "--seed", "7", "--minutes", "0") == EXIT_OK
    assert losses_of(other)[0] != losses_of(finished)[0]


def test_it_begins_with_the_weights_of_init(finished, folder, weights, tmp_path, capsys):
    """Encoder, size, statistics and weights are the checkpoint's, as a training that hardly moves shows."""
    options = ["--lr", "1e-9", "--minutes", "0", "--init"]
    assert train(folder, weights, *options, str(finished)) == EXIT_OK
    model, first = serab_byols.load_model(weights), serab_byols.load_model(finished)
    assert model.statistics == first.statistics
    assert model.training_facts["init"] == finished.name
    for key, value in first.encoder.named_parameters():
        torch.testing.assert_close(model.encoder.get_parameter(key), value, rtol=0, atol=1e-7, msg=key)
    other = serab_byols.save_checkpoint(serab_byols.create_model(d=4), tmp_path / "other.safetensors")
    before = weights.read_bytes()
    for source, more, message in (
        (other, [], "init: not the same"),
        (weights, [], "is also an input"),
        (finished, ["--size", "4"], "decided by the weights of --init"),
    ):
        capsys.readouterr()
        assert train(folder, weights, *options, str(source), *more) == EXIT_USAGE
        assert message in capsys.readouterr().err
    assert weights.read_bytes() == before


def test_a_stopped_training_resumes_exactly(finished, folder, weights, capsys):
    """Stopped by the clock after a step, then resumed by the same command; what is finished stays so."""
    for _ in range(2):
        assert train(folder, weights, "--minutes", "0") == EXIT_OK
        assert "the same command resumes" in capsys.readouterr().out
    assert len(losses_of(weights)) == 2
    assert train(folder, weights) == EXIT_OK
    assert "resumed at step 2 of 10" in capsys.readouterr().err
    assert_same_training(weights, finished)
    assert train(folder, weights) == EXIT_OK
    assert "after step 10 of 10" in capsys.readouterr().out
    assert_same_training(weights, finished)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_between_steps_and_the_training_resumes_exactly(
    finished, folder, weights, monkeypatch, capsys, number
):
    def log_and_signal(path, row):
        append_row(path, row)
        if row["step"] == 5:
            signal.raise_signal(number)

    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr("serab_byols.pretrain.loop.append_row", log_and_signal)
        assert train(folder, weights) == EXIT_INTERRUPTED
    assert "interrupted at step 7 of 10; the same command resumes" in capsys.readouterr().err
    assert signal.getsignal(number) == handler
    assert train(folder, weights) == EXIT_OK
    assert_same_training(weights, finished)


def test_a_killed_training_resumes_exactly(finished, folder, weights):
    """From its last checkpoint."""
    arguments = command(folder, weights, "--checkpoint-steps", "3")
    process = subprocess.Popen([sys.executable, "-m", "serab_byols", *arguments], stderr=subprocess.DEVNULL)
    log, deadline = weights.with_suffix(".log.csv"), time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and log.read_text().count("\n") > 5:
            break
        time.sleep(0.002)
    process.kill()
    process.communicate(timeout=120)
    assert main(arguments) == EXIT_OK
    assert_same_training(weights, finished)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"step,loss\n0,1.0\n1,2.0\n2,3.0\n3,", "step,loss\n0,1.0\n1,2.0\n"),
        (b"step,loss\n0,1\n\x00\x00\xff", "step,loss\n0,1\n"),
        (b"step,loss\n7,1\n", None),
        (b"step,loss\n", None),
        (b"", None),
        (None, None),
    ],
)
def test_a_log_is_cut_back_to_whole_rows_before_the_step(tmp_path, text, expected):
    log = tmp_path / "log.csv"
    if text is not None:
        log.write_bytes(text)
    keep_rows_before(log, 2)
    assert (log.read_text() if log.exists() else None) == expected


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_encoder_trains_stops_resumes_and_loads(name, folder, weights):
    """The published training could not resume with CvT. Without the target network, for time."""
    options = ["--encoder", name, "--steps", "2", "--crop-s", "0.1", "--batch-size", "2"]
    options += ["--byol-weight", "0", "--hybrid", "log-mel-statistics"]
    options += ["--encoder-config", '{"d": 4}'] if name == "default" else []
    assert train(folder, weights, *options, "--minutes", "0") == EXIT_OK
    assert train(folder, weights, *options) == EXIT_OK
    model = serab_byols.load_model(weights, name)
    assert len(losses_of(weights)) == 2
    assert torch.isfinite(serab_byols.get_scene_embeddings([torch.zeros(16000)], model)).all()


@pytest.fixture(scope="module")
def forks():
    """Grows when this process is forked; what starts another program is no fork."""
    happened = []
    os.register_at_fork(before=lambda: happened.append("fork"))
    return happened


@pytest.mark.parametrize("hybrid", ["log-mel-statistics", "compare2016"])
def test_nothing_forks_after_torch_has_used_threads(folder, weights, forks, hybrid):
    """A forked process would hang; what reads and decodes files beside the training are threads."""
    if hybrid == "compare2016":
        pytest.importorskip("opensmile", reason="the extra 'hybrid' is not installed")
    torch.set_num_threads(2)
    torch.randn(300, 300) @ torch.randn(300, 300)
    before = len(forks)
    options = ["--hybrid", hybrid, "--views", str(weights.with_suffix(".png")), "--steps", "2"]
    assert train(folder, weights, *options) == EXIT_OK
    serab_byols.embed_file(folder / "1.wav", serab_byols.load_model(weights))
    assert len(forks) == before


def test_learning_lowers_the_loss(folder, weights):
    config = PretrainConfig(encoder_config={"d": 8}, crop_s=0.3, batch_size=8, steps=40, lr=1e-3)
    assert pretrain([str(folder)], weights, config, on_message=quiet).finished
    losses = losses_of(weights)
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_a_student_comes_close_to_its_teacher(folder, weights, tiny_checkpoint):
    options = ["--size", "16", "--batch-size", "8", "--steps", "60", "--lr", "5e-3", "--dropout", "0"]
    options += ["--teacher", str(tiny_checkpoint), "--statistics=-6,5", "--no-post-norm"]
    assert train(folder, weights, *options) == EXIT_OK
    rows = log_of(weights)
    assert {"teacher", "teacher_time_steps"} < set(rows[0])
    assert "byol" not in rows[0]
    assert np.mean([row["teacher"] for row in rows[-5:]]) < 0.5 * rows[0]["teacher"]
    model = serab_byols.load_model(weights)
    assert model.statistics == (-6.0, 5.0)
    assert model.training_facts["teacher"] == tiny_checkpoint.name


def test_features_are_learned_beside(folder, weights, tmp_path, capsys):
    table = tmp_path / "t.csv"
    rows = [f"{folder / f'{seed}.wav'},{seed},{seed**2}" for seed in range(4)]
    table.write_text("\n".join(["file,one,two", *rows]))
    options = ["--hybrid", str(table), "--steps", "3"]
    assert train(folder, weights, *options) == EXIT_BAD_FILES  # one clip has no row
    assert {"byol", "hybrid"} < set(log_of(weights)[0])
    assert "4.wav: no row in" in weights.with_suffix(".errors.csv").read_text()
    table.write_text("\n".join(["file,one,two", *reversed(rows[:3])]))
    assert train(folder, weights, *options) == EXIT_USAGE
    assert "features: not the same" in capsys.readouterr().err


def test_contrastive_learning_resumes_exactly(folder, tmp_path):
    options = ["--byol-weight", "0", "--contrastive-weight", "1", "--precision", "bf16-mixed"]
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    assert train(folder, whole, *options) == EXIT_OK
    assert train(folder, stopped, *options, "--minutes", "0") == EXIT_OK
    assert len(losses_of(stopped)) < N_STEPS
    assert train(folder, stopped, *options) == EXIT_OK
    assert "contrastive" in log_of(whole)[0]
    assert_same_training(stopped, whole)


def test_a_training_begun_before_an_option_existed_resumes(folder, weights, capsys):
    assert train(folder, weights, "--minutes", "0") == EXIT_OK
    path = weights.with_suffix(".training.ckpt")
    saved = torch.load(path, weights_only=True)
    del saved["identity"]["config"]["contrastive_weight"]
    torch.save(saved, path)
    assert train(folder, weights, "--contrastive-weight", "1") == EXIT_USAGE
    assert "contrastive_weight was 0.0, now 1.0" in capsys.readouterr().err
    assert train(folder, weights) == EXIT_OK


def test_hybrid_with_statistics_of_the_crops_resumes_exactly(folder, tmp_path):
    whole, stopped = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    options = ["--hybrid", "log-mel-statistics", "--steps", "4"]
    assert train(folder, whole, *options) == EXIT_OK
    for minutes in ("0", "9"):
        assert train(folder, stopped, *options, "--minutes", minutes) == EXIT_OK
    assert [row["hybrid"] for row in log_of(stopped)] == [row["hybrid"] for row in log_of(whole)]
    assert_same_training(stopped, whole)


def test_bad_files_are_listed_and_stay_listed_when_resumed(folder, weights, tmp_path, capsys):
    """Of one, the header is bad; of the other, only the end, so that the training itself finds out."""
    no_audio = tmp_path / "bad.wav"
    no_audio.write_bytes(b"nothing")
    cut = write(tmp_path / "cut.flac", np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10)
    cut.write_bytes(cut.read_bytes()[:6000])
    arguments = ["pretrain", str(no_audio), str(cut), *command(folder, weights)[1:]]
    assert main(arguments) == EXIT_BAD_FILES
    messages = capsys.readouterr().err
    assert main(arguments) == EXIT_BAD_FILES
    for bad in (no_audio, cut):
        assert f"left out: {bad}" in messages
        assert str(bad) in weights.with_suffix(".errors.csv").read_text()
    assert weights.exists()


def test_resuming_with_other_options_is_refused(folder, weights):
    def run(config=SMALL, **options):
        return pretrain([str(folder)], weights, config, on_message=quiet, **options)

    run()
    with pytest.raises(CheckpointError, match=r"lr was 0.0003, now 0.001.*restart"):
        run(replace(SMALL, lr=1e-3))
    write(folder / "new.wav", voice(9))
    try:
        with pytest.raises(CheckpointError, match="corpus: not the same"):
            run()
        assert run(restart=True).step == 4
    finally:
        (folder / "new.wav").unlink()


def test_a_training_checkpoint_that_is_none_is_refused(folder, weights):
    """Damaged, a state of something else, or with parts that are not this network's."""

    def run():
        return pretrain([str(folder)], weights, SMALL, on_message=quiet)

    run()
    path = weights.with_suffix(".training.ckpt")
    whole = torch.load(path, weights_only=True)
    without = [{key: value for key, value in whole.items() if key != name} for name in whole]
    network = dict(list(whole["network"].items())[1:])
    odd = [{"step": -1}, {"step": "2"}, {"identity": {}}, {"network": network}, {"optimizer": {}}]
    for state in ({}, [], 5, *without, *({**whole, **part} for part in odd)):
        torch.save(state, path)
        with pytest.raises(CheckpointError, match="damaged and cannot be resumed from; --restart"):
            run()
    for text in (b"damaged", b"{}", b""):
        path.write_bytes(text)
        with pytest.raises(CheckpointError, match="damaged and cannot be resumed from; --restart"):
            run()


def test_epochs_are_as_many_steps_as_they_take(folder, weights):
    result = pretrain([str(folder)], weights, SMALL, epochs=0.5, on_message=quiet)
    n_crops = sum(max(1, round((0.4 + 0.4 * seed) / 0.3)) for seed in range(5))
    assert result.n_steps == round(0.5 * (n_crops // 4))
    for epochs in (-1, float("nan"), "2"):
        with pytest.raises(InvalidInputError, match="epochs must be"):
            pretrain([str(folder)], weights, SMALL, epochs=epochs, on_message=quiet)


@pytest.mark.parametrize("name", ["devices", "n_nodes", "checkpoint_steps", "cache_gb", "max_minutes"])
def test_a_machine_has_numbers_that_make_sense(name):
    for value in (float("nan"), -2, "1", None, True):
        with pytest.raises(InvalidInputError, match=f"{name} must be"):
            Machine(**{name: value})


def test_collapse_is_warned_of(folder, weights, tmp_path, monkeypatch):
    """Of one constant clip all embeddings are the same, whatever the network does."""
    monkeypatch.setattr("serab_byols.pretrain.loop._COLLAPSED_STEPS", 4)
    write(tmp_path / "a.wav", np.zeros(8000))
    config = replace(SMALL, steps=8, mixup_ratio=0, crop_scale=(1, 1), crop_virtual_time=1, dropout=0)
    messages = []
    pretrain([str(tmp_path / "a.wav")], weights, config, on_message=messages.append)
    (warning,) = [message for message in messages if "at step 4 the embeddings have collapsed" in message]
    assert warning.endswith("or an EMA decay closer to 1")
    messages.clear()
    config = replace(config, byol_weight=0, contrastive_weight=1)  # without a target network
    pretrain([str(tmp_path / "a.wav")], tmp_path / "c.safetensors", config, on_message=messages.append)
    (warning,) = [message for message in messages if "at step 4 the embeddings have collapsed" in message]
    assert warning.endswith("Try a lower learning rate or larger batches")
    messages.clear()
    pretrain([str(folder)], tmp_path / "b.safetensors", replace(SMALL, steps=8), on_message=messages.append)
    assert not any("collapsed" in message for message in messages)


def test_a_training_that_diverges_ends_with_a_reason(folder, weights):
    with pytest.raises(DivergedError, match="lower learning rate"):
        pretrain([str(folder)], weights, replace(SMALL, lr=1e30, steps=30), on_message=quiet)
    assert not weights.exists()


def test_bfloat16_trains_with_a_front_end_in_float32(finished, folder, weights, caplog):
    assert train(folder, weights, "--precision", "bf16-mixed") == EXIT_OK
    assert caplog.records == []  # Lightning would announce its mixed precision
    assert all(value.dtype != torch.bfloat16 for value in state_of(weights).values())
    assert all(0 < loss < 8 for loss in losses_of(weights))
    assert losses_of(weights) != losses_of(finished)
    assert serab_byols.load_model(weights).statistics == serab_byols.load_model(finished).statistics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "a.pth"], "ending in .safetensors"),
        (["-o", "none/a.safetensors"], "does not exist"),
        (["--teacher-weight", "1"], "--teacher-weight needs --teacher"),
        (["--hybrid-weight", "1"], "--hybrid-weight needs --hybrid"),
        (["--encoder", "cvt", "--size", "8"], "--size is the width"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--devices", "0"], "devices must be at least 1"),
        (["--checkpoint-steps", "0"], "checkpoint_steps must be at least 1"),
        (["--precision", "16-mixed"], "use bf16-mixed"),
        (["--accelerator", "abacus"], "Lightning cannot run this here"),
        (["--encoder-config", '{"colour": 1}'], "colour"),
        (["--crop-s", "1e9"], "crop_s must be above 0 and at most 60"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--lr", "nan"], "lr must be above 0"),
        (["--accelerator", "meta"], "Lightning cannot run this here"),
        (["--cache-gb", "inf"], "cache_gb must be a number of at least 0"),
        (["--minutes", "nan"], "max_minutes must be a number of at least 0"),
        (["--epochs", "nan"], "epochs must be a positive number"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(
    folder, tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", str(folder), "-o", "a.safetensors", *options]) == EXIT_USAGE
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_without_lightning_the_extra_is_named(folder, weights, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lightning", None)
    for name in [name for name in sys.modules if name.startswith("lightning.")]:
        monkeypatch.delitem(sys.modules, name)
    assert train(folder, weights) == EXIT_USAGE
    assert "pip install 'serab-byols[pretrain]'" in capsys.readouterr().err


def test_options_are_shown_without_optional_packages():
    code = "import sys; from serab_byols.cli import main\n"
    code += "try: main(['pretrain', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'lightning', 'matplotlib', 'pandas'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "peak learning rate of AdamW (default: 0.0003)" in " ".join(done.stdout.split())
