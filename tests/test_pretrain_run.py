"""A pretraining as a user runs it: files in, weights out; killed and resumed; refused with a reason."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sounds import voice, write

import serab_byols
from serab_byols.cli import main
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from serab_byols.encoders import ENCODERS
from serab_byols.errors import CheckpointError, DivergedError, InvalidInputError
from serab_byols.pretrain import PretrainConfig, pretrain
from serab_byols.pretrain.callbacks import keep_rows_before

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = ["--size", "4", "--crop-s", "0.3", "--batch-size", "4", "--mixup-memory", "8", "--threads", "1"]
SMALL = PretrainConfig(encoder_config={"d": 4}, crop_s=0.3, batch_size=4, mixup_memory=8, steps=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio")
    for seed in range(5):
        write(path / f"{seed}.wav", voice(seed, seconds=0.4 + 0.4 * seed))
    return path


def log_of(weights):
    with weights.with_suffix(".log.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def losses_of(weights):
    return [row["loss"] for row in log_of(weights)]


def state_of(weights):
    return serab_byols.load_model(weights).encoder.state_dict()


def same(one, other):
    return all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """Ten steps in one go, as typed."""
    weights = tmp_path_factory.mktemp("run") / "a.safetensors"
    assert main(["pretrain", str(folder), "-o", str(weights), "--steps", "10", *TINY]) == EXIT_OK
    return weights


def test_weights_log_and_curve_are_written(finished, folder):
    model = serab_byols.load_model(finished)
    assert model.embedding_size == 4
    assert model.statistics is not None
    assert serab_byols.embed_file(folder / "1.wav", model).embedding.shape == (4,)
    facts = model.training_facts
    assert (facts["steps"], facts["crops"], facts["corpus"]["clips"]) == (10, 40, 5)
    assert facts["recipe"]["crop_s"] == 0.3
    rows = log_of(finished)
    assert [row["step"] for row in rows] == list(range(10))
    assert set(rows[0]) == {"step", "loss", "byol", "spread", "lr", "crops_per_s"}
    assert all(0 <= row["loss"] <= 8 for row in rows)
    assert finished.with_suffix(".loss.png").read_bytes().startswith(b"\x89PNG")
    assert not finished.with_suffix(".errors.csv").exists()


def test_the_stored_statistics_are_those_of_the_corpus(finished, folder):
    frontend = serab_byols.create_model(d=4).frontend
    clips = [torch.from_numpy(voice(seed, seconds=0.4 + 0.4 * seed)) for seed in range(5)]
    mean = np.mean([float(frontend(clip[None]).mean()) for clip in clips])
    statistics = serab_byols.load_model(finished).statistics
    assert abs(statistics.mean - mean) < 0.8


def test_the_same_command_and_seed_give_the_same_losses(finished, folder, tmp_path):
    again, other = tmp_path / "again.safetensors", tmp_path / "other.safetensors"
    command = ["pretrain", str(folder), "--steps", "10", *TINY]
    assert main([*command, "-o", str(again)]) == EXIT_OK
    assert main([*command, "-o", str(other), "--seed", "7"]) == EXIT_OK
    assert losses_of(again) == losses_of(finished)
    assert same(state_of(again), state_of(finished))
    assert losses_of(other)[0] != losses_of(finished)[0]


def test_it_begins_with_the_weights_of_init(finished, folder, tmp_path, capsys):
    """Encoder, size, statistics and weights are the checkpoint's, as a hardly moving training shows."""
    weights = tmp_path / "more.safetensors"
    command = ["pretrain", str(folder), "-o", str(weights), "--steps", "2", "--lr", "1e-9", *TINY[2:]]
    assert main([*command, "--init", str(finished), "--minutes", "0"]) == EXIT_OK
    model, first = serab_byols.load_model(weights), serab_byols.load_model(finished)
    assert model.statistics == first.statistics
    assert model.training_facts["start"] == finished.name
    for key, value in first.encoder.named_parameters():
        torch.testing.assert_close(model.encoder.get_parameter(key), value, rtol=0, atol=1e-7, msg=key)
    other = serab_byols.save_checkpoint(serab_byols.create_model(d=4), tmp_path / "other.safetensors")
    capsys.readouterr()
    assert main([*command, "--init", str(other)]) == EXIT_USAGE
    assert "start: not the same" in capsys.readouterr().err
    before = weights.read_bytes()
    assert main([*command, "--init", str(weights)]) == EXIT_USAGE
    assert "it would be lost" in capsys.readouterr().err
    assert weights.read_bytes() == before
    assert main([*command, "--init", str(finished), "--size", "4"]) == EXIT_USAGE
    assert "decided by the weights of --init" in capsys.readouterr().err


def test_a_stopped_training_resumes_exactly(finished, folder, tmp_path, capsys):
    """Stopped by the clock after its first step, then resumed by the same command."""
    weights = tmp_path / "a.safetensors"
    command = ["pretrain", str(folder), "-o", str(weights), "--steps", "10", *TINY]
    for _ in range(2):
        assert main([*command, "--minutes", "0"]) == EXIT_OK
        assert "the same command resumes" in capsys.readouterr().out
    assert len(losses_of(weights)) == 2
    assert main(command) == EXIT_OK
    assert "resumed at step 2 of 10" in capsys.readouterr().err
    assert losses_of(weights) == losses_of(finished)
    assert same(state_of(weights), state_of(finished))
    assert serab_byols.load_model(weights).statistics == serab_byols.load_model(finished).statistics


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_a_killed_training_resumes_exactly(finished, folder, tmp_path, how):
    """Ended, it saves first; killed, it goes back to its last checkpoint."""
    weights = tmp_path / "a.safetensors"
    command = ["pretrain", str(folder), "-o", str(weights), "--steps", "10", "--checkpoint-steps", "3", *TINY]
    # A file that opens slowly enough: the training is stopped when its log has five rows.
    process = subprocess.Popen([sys.executable, "-m", "serab_byols", *command], stderr=subprocess.PIPE)
    log = weights.with_suffix(".log.csv")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and log.read_text().count("\n") > 5:
            break
        time.sleep(0.002)
    process.send_signal(how)
    _, errors = process.communicate(timeout=120)
    if how == signal.SIGTERM and process.returncode != EXIT_OK:  # OK: it was done before the signal came
        assert process.returncode == EXIT_INTERRUPTED
        assert b"the same command resumes" in errors
    assert main(command) == EXIT_OK
    assert losses_of(weights) == losses_of(finished)
    assert same(state_of(weights), state_of(finished))


def test_a_finished_training_is_not_done_again(finished, folder, capsys):
    before = losses_of(finished)
    assert main(["pretrain", str(folder), "-o", str(finished), "--steps", "10", *TINY]) == EXIT_OK
    assert "after step 10 of 10" in capsys.readouterr().out
    assert losses_of(finished) == before


def test_a_log_with_half_a_row_is_cut_back(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n0,1.0\n1,2.0\n2,3.0\n3,")
    keep_rows_before(log, 2)
    assert log.read_text().split() == ["step,loss", "0,1.0", "1,2.0"]
    keep_rows_before(log, 0)
    assert not log.exists()
    keep_rows_before(log, 5)


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_encoder_trains_stops_resumes_and_loads(name, folder, tmp_path):
    """The published training could not resume with CvT."""
    weights = tmp_path / "a.safetensors"
    size = TINY if name == "default" else TINY[2:]
    command = ["pretrain", str(folder), "-o", str(weights), "--encoder", name, "--steps", "2", *size]
    assert main([*command, "--minutes", "0"]) == EXIT_OK
    assert main(command) == EXIT_OK
    model = serab_byols.load_model(weights, name)
    assert len(losses_of(weights)) == 2
    assert torch.isfinite(serab_byols.get_scene_embeddings([torch.zeros(16000)], model)).all()


def test_learning_lowers_the_loss(folder, tmp_path):
    result = pretrain(
        [str(folder)],
        tmp_path / "a.safetensors",
        PretrainConfig(encoder_config={"d": 8}, crop_s=0.3, batch_size=8, steps=40, lr=1e-3),
        say=lambda _: None,
    )
    assert result.finished
    losses = losses_of(result.weights)
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_a_student_comes_close_to_its_teacher(folder, tmp_path, tiny_checkpoint):
    weights = tmp_path / "a.safetensors"
    command = ["pretrain", str(folder), "-o", str(weights), "--size", "16", "--crop-s", "0.3"]
    command += ["--batch-size", "8", "--steps", "60", "--lr", "5e-3", "--dropout", "0", "--threads", "1"]
    command += ["--teacher", str(tiny_checkpoint), "--statistics=-6,5", "--no-post-norm"]
    assert main(command) == EXIT_OK
    rows = log_of(weights)
    assert {"teacher", "teacher_frames"} < set(rows[0])
    assert "byol" not in rows[0]
    assert np.mean([row["teacher"] for row in rows[-5:]]) < 0.5 * rows[0]["teacher"]
    model = serab_byols.load_model(weights)
    assert model.statistics == (-6.0, 5.0)
    assert model.training_facts["teacher"] == tiny_checkpoint.name


def test_a_table_of_features_is_learnt_beside(folder, tmp_path, capsys):
    weights, table = tmp_path / "a.safetensors", tmp_path / "t.csv"
    rows = [f"{folder / f'{seed}.wav'},{seed},{seed**2}" for seed in range(4)]
    table.write_text("\n".join(["file,one,two", *rows]))
    command = ["pretrain", str(folder), "-o", str(weights), "--hybrid", str(table), "--steps", "3", *TINY]
    assert main(command) == EXIT_BAD_FILES  # one clip has no row
    assert {"byol", "hybrid"} < set(log_of(weights)[0])
    assert "4.wav: no row in" in weights.with_suffix(".errors.csv").read_text()
    table.write_text("\n".join(["file,one,two", *reversed(rows[:3])]))
    assert main(command) == EXIT_USAGE
    assert "features: not the same" in capsys.readouterr().err


def test_hybrid_of_the_crops_own_statistics_resumes_exactly(folder, tmp_path):
    weights, stopped = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    command = ["pretrain", str(folder), "--hybrid", "log-mel-statistics", "--steps", "6", *TINY]
    assert main([*command, "-o", str(weights)]) == EXIT_OK
    assert {"byol", "hybrid"} < set(log_of(weights)[0])
    for minutes in ("0", "0", "9"):
        assert main([*command, "-o", str(stopped), "--minutes", minutes]) == EXIT_OK
    assert log_of(stopped)[2]["hybrid"] == log_of(weights)[2]["hybrid"]
    assert same(state_of(stopped), state_of(weights))


def test_what_could_not_be_decoded_stays_listed_when_resumed(folder, tmp_path, capsys):
    """Its header is whole, so that only the training finds out."""
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1
    bad = write(tmp_path / "bad.flac", noise)
    bad.write_bytes(bad.read_bytes()[:6000])
    weights = tmp_path / "a.safetensors"
    command = ["pretrain", str(folder), str(bad), "-o", str(weights), "--steps", "8", *TINY]
    assert main(command) == EXIT_BAD_FILES
    assert f"left out: {bad}" in capsys.readouterr().err
    main(command)
    assert weights.with_suffix(".errors.csv").read_text().count(str(bad)) >= 1


@pytest.mark.parametrize("damage", [b"", b"step,loss\n", b"step,loss\n0,1\n\x00\x00\xff"])
def test_a_damaged_log_does_not_keep_a_training_from_going_on(tmp_path, damage):
    log = tmp_path / "a.log.csv"
    log.write_bytes(damage)
    keep_rows_before(log, 5)
    assert not log.exists() or log.read_text() == "step,loss\n0,1\n"


def test_views_are_drawn_and_change_nothing(finished, folder, tmp_path):
    weights, picture = tmp_path / "a.safetensors", tmp_path / "v.png"
    command = ["pretrain", str(folder), "-o", str(weights), "--steps", "10", *TINY, "--views", str(picture)]
    assert main(command) == EXIT_OK
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert losses_of(weights) == losses_of(finished)


def test_bad_files_are_listed(folder, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"nothing")
    weights = tmp_path / "a.safetensors"
    command = ["pretrain", str(folder), str(bad), "-o", str(weights), "--steps", "1", *TINY]
    assert main(command) == EXIT_BAD_FILES
    assert f"left out: {bad}" in capsys.readouterr().err
    assert str(bad) in weights.with_suffix(".errors.csv").read_text()
    assert weights.exists()


def test_resuming_in_another_way_is_refused(folder, tmp_path, tiny_checkpoint):
    weights = tmp_path / "a.safetensors"

    def train(config=SMALL, **options):
        return pretrain([str(folder)], weights, config, say=lambda _: None, **options)

    train()
    with pytest.raises(CheckpointError, match=r"lr was 0.0003, now 0.001.*restart"):
        train(PretrainConfig(**{**SMALL.as_dict(), "lr": 1e-3, "crop_scale": (0.6, 1.5)}))
    write(folder / "new.wav", voice(9))
    try:
        with pytest.raises(CheckpointError, match="corpus: not the same"):
            train()
        assert train(restart=True).step == 4
    finally:
        (folder / "new.wav").unlink()
    weights.with_suffix(".training.ckpt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged and cannot be resumed from; --restart"):
        train()


def test_epochs_are_as_many_steps_as_they_take(folder, tmp_path):
    result = pretrain([str(folder)], tmp_path / "a.safetensors", SMALL, epochs=0.5, say=lambda _: None)
    n_crops = sum(max(1, round((0.4 + 0.4 * seed) / 0.3)) for seed in range(5))
    assert result.n_steps == round(0.5 * (n_crops // 4))
    with pytest.raises(InvalidInputError, match="epochs must be"):
        pretrain([str(folder)], tmp_path / "b.safetensors", SMALL, epochs=-1, say=lambda _: None)


def test_collapse_is_warned_of(tmp_path):
    """Of one constant clip all embeddings are the same, whatever the network does."""
    write(tmp_path / "a.wav", np.zeros(8000))
    said = []
    config = PretrainConfig(
        encoder_config={"d": 4},
        crop_s=0.3,
        batch_size=4,
        steps=60,
        mixup_ratio=0,
        crop_scale=(1, 1),
        crop_virtual_time=1,
        dropout=0,
    )
    pretrain([str(tmp_path / "a.wav")], tmp_path / "a.safetensors", config, say=said.append)
    assert sum("collapsed" in message for message in said) == 1
    said.clear()
    write(tmp_path / "b.wav", voice(1, seconds=2))
    pretrain([str(tmp_path / "b.wav")], tmp_path / "b.safetensors", SMALL, say=said.append)
    assert not any("collapsed" in message for message in said)


def test_a_training_that_diverges_ends_with_a_reason(folder, tmp_path):
    config = PretrainConfig(**{**SMALL.as_dict(), "lr": 1e30, "steps": 30, "crop_scale": (0.6, 1.5)})
    with pytest.raises(DivergedError, match="lower learning rate"):
        pretrain([str(folder)], tmp_path / "a.safetensors", config, say=lambda _: None)
    assert not (tmp_path / "a.safetensors").exists()


def test_bfloat16_trains(folder, tmp_path):
    weights = tmp_path / "a.safetensors"
    command = [
        "pretrain",
        str(folder),
        "-o",
        str(weights),
        "--steps",
        "3",
        *TINY,
        "--precision",
        "bf16-mixed",
    ]
    assert main(command) == EXIT_OK
    assert all(value.dtype != torch.bfloat16 for value in state_of(weights).values())
    assert all(0 < loss < 8 for loss in losses_of(weights))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "a.pth"], "ending in .safetensors"),
        (["-o", "none/a.safetensors"], "does not exist"),
        (["-o", "a.safetensors", "--teacher-weight", "1"], "--teacher-weight needs --teacher"),
        (["-o", "a.safetensors", "--hybrid-weight", "1"], "--hybrid-weight needs --hybrid"),
        (["-o", "a.safetensors", "--encoder", "cvt", "--size", "8"], "--size is the width"),
        (["-o", "a.safetensors", "--steps", "0"], "steps must be at least 1"),
        (["-o", "a.safetensors", "--seed", "-1"], "seed must be at least 0"),
        (["-o", "a.safetensors", "--threads", "0"], "--threads must be at least 1"),
        (["-o", "a.safetensors", "--devices", "0"], "devices must be at least 1"),
        (["-o", "a.safetensors", "--checkpoint-steps", "0"], "checkpoint_steps must be at least 1"),
        (["-o", "a.safetensors", "--devices", "2", "--strategy", "ddp_spawn"], "use 'ddp'"),
        (["-o", "a.safetensors", "--precision", "16-mixed"], "use bf16-mixed"),
        (["-o", "a.safetensors", "--accelerator", "abacus"], "Lightning cannot run this here"),
        (["-o", "a.safetensors", "--encoder-config", '{"colour": 1}'], "colour"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(folder, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", str(folder), *options]) == EXIT_USAGE
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_without_lightning_the_extra_is_named(folder, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("serab_byols.pretrain", "lightning"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    assert main(["pretrain", str(folder), "-o", str(tmp_path / "a.safetensors")]) == EXIT_USAGE
    assert "pip install 'serab-byols[pretrain]'" in capsys.readouterr().err


def test_options_are_looked_at_without_lightning():
    code = "import sys; from serab_byols.cli import main\n"
    code += "try: main(['pretrain', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'lightning' not in sys.modules and 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
