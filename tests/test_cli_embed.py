"""``serab-byols embed``: almost always in this process, once as users run it."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas
import pyarrow.parquet
import pytest
from sounds import not_utf8_folder, voice, write

import serab_byols
from serab_byols import cli, embed_file
from serab_byols.checkpoint import weights_sha256
from serab_byols.corpus import embedding
from serab_byols.inference.scenes import SceneEmbedder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def command(tiny_checkpoint):
    """Run ``embed`` with the tiny model; arguments to exit status."""

    def run(*arguments):
        return cli.main(["embed", *map(str, arguments), "--model", str(tiny_checkpoint)])

    return run


@pytest.fixture
def clips(tmp_path):
    """A folder with audio in it and in a subfolder, and a file of something else."""
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    write(folder / "b.wav", np.stack([voice(1), voice(2)], axis=1))
    write(folder / "a.flac", voice(3, 0.75, 44100), 44100)
    write(folder / "deep" / "c.mp3", voice(4, 0.5, 44100), 44100)
    (folder / "notes.txt").write_text("not audio")
    return folder


def matrix(path):
    return np.stack(pandas.read_parquet(path)["embedding"])


def metadata(path):
    return json.loads(pyarrow.parquet.read_schema(path).metadata[b"serab_byols"])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


# Tables


def test_a_folder_becomes_a_table_with_the_model_s_identity(
    tmp_path, clips, command, tiny_model, tiny_checkpoint, capfd
):
    out = tmp_path / "out.parquet"
    assert command(clips, "-o", out, "--encoder", "default") == 0
    table = pandas.read_parquet(out)
    assert list(table.columns) == ["file", "start", "end", "embedding"]
    files = [clips / "a.flac", clips / "b.wav", clips / "deep" / "c.mp3"]
    assert list(table["file"]) == [str(file) for file in files]
    assert list(table["start"]) == [0, 0, 0]
    assert list(table["end"]) == [0.75, 0.5, 0.5]
    assert_same(np.stack(table["embedding"]), [embed_file(file, tiny_model).embedding for file in files])
    assert names(tmp_path) == ["clips", "out.parquet"]
    passed_over = "serab-byols: passed over 1 file that is not audio by suffix (1 .txt)\n"
    assert tuple(capfd.readouterr()) == (f"{out}: 3 rows of 16 numbers from 3 clips\n", passed_over)
    expected = {
        "serab_byols": serab_byols.__version__,
        "encoder": "default",
        "encoder_config": tiny_model.encoder.config,
        "weights": tiny_checkpoint.name,
        "weights_sha256": weights_sha256(tiny_model.encoder),
        "normalization": "clip",
        "dtype": "float32",
        "embedding_size": 16,
        "sample_rate": 16000,
    }
    assert expected.items() <= metadata(out).items()


def test_timestamps_give_a_row_a_frame(tmp_path, clips, command, tiny_model):
    out = tmp_path / "out.parquet"
    options = ["--timestamps", "--frame-duration", "200", "--hop-size", "100"]
    assert command(clips / "b.wav", clips / "a.flac", "-o", out, *options) == 0
    table = pandas.read_parquet(out)
    assert list(table.columns) == ["file", "start", "end", "time", "embedding"]
    assert list(table["file"]) == [str(clips / "b.wav")] * 6 + [str(clips / "a.flac")] * 8
    expected = embed_file(clips / "a.flac", tiny_model, timestamps=True, frame_duration=200, hop_size=100)
    for name in ("start", "end", "time"):
        np.testing.assert_array_equal(table[name][6:], getattr(expected, name))
    assert_same(np.stack(table["embedding"][6:]), expected.embedding)
    assert (metadata(out)["frame_duration_ms"], metadata(out)["hop_size_ms"]) == (200, 100)


def test_half_precision_is_in_the_metadata(tmp_path, clips, command):
    exact, half = tmp_path / "exact.parquet", tmp_path / "half.parquet"
    assert command(clips, "-o", exact) == 0
    assert command(clips, "-o", half, "--dtype", "bfloat16") == 0
    assert matrix(half).dtype == np.float32
    assert 1e-5 < np.abs(matrix(half) - matrix(exact)).max() / np.abs(matrix(exact)).max() < 3e-2
    assert [metadata(path)["dtype"] for path in (exact, half)] == ["float32", "bfloat16"]
    assert metadata(exact)["weights_sha256"] == metadata(half)["weights_sha256"]


# Bad files


def test_bad_files_are_listed_and_the_others_embedded(tmp_path, clips, command, capfd):
    good, out = tmp_path / "good.parquet", tmp_path / "out.parquet"
    assert command(clips, "-o", good) == 0
    capfd.readouterr()
    bad = {
        clips / "a0.wav": "cannot be read as audio",
        clips / "deep" / "d.wav": "is empty (0 bytes)",
        tmp_path / "missing.wav": "no such file",
        clips / "notes.txt": "cannot be read as audio",
    }
    (clips / "a0.wav").write_text("text, not audio")
    (clips / "deep" / "d.wav").touch()
    out.write_bytes(b"old")
    assert command(clips, tmp_path / "missing.wav", clips / "notes.txt", "-o", out) == 1

    with open(f"{out}.errors.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [["file", "start", "end", "error"]] * 4
    assert [row["file"] for row in rows] == [str(path) for path in bad]
    captured = capfd.readouterr()
    for row, reason in zip(rows, bad.values()):
        assert reason in row["error"]
        assert f"serab-byols: {row['error']}\n" in captured.err
    assert f"4 of 7 clips could not be embedded (see {out}.errors.csv); {out} has the rest" in captured.err
    assert "3 rows" in captured.out
    pandas.testing.assert_frame_equal(pandas.read_parquet(out), pandas.read_parquet(good))

    assert command(clips / "b.wav", "-o", out) == 0  # a run without errors removes the list
    assert names(tmp_path) == ["clips", "good.parquet", "out.parquet"]


@pytest.mark.parametrize("exists", [False, True])
def test_when_all_files_are_bad_only_the_list_of_errors_is_written(tmp_path, command, capsys, exists):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out.parquet"
    if exists:
        out.write_bytes(b"old")
    assert command(tmp_path / "empty", tmp_path / "missing.wav", "-o", out) == 1
    assert names(tmp_path) == ["empty", *["out.parquet"] * exists, "out.parquet.errors.csv"]
    if exists:
        assert out.read_bytes() == b"old"
    captured = capsys.readouterr()
    assert "no audio files in this folder" in captured.err
    assert f"{out} was not written" in captured.err
    assert captured.out == ""


def test_a_name_that_is_not_utf8_is_listed(tmp_path, clips, command, capfd):
    strange = not_utf8_folder(clips)
    write(clips / "d.wav", voice()).rename(strange / "d.wav")
    out = tmp_path / "out.parquet"
    assert command(clips, "-o", out) == 1
    assert len(pandas.read_parquet(out)) == 3
    (error,) = pandas.read_csv(f"{out}.errors.csv")["error"]
    assert "not valid UTF-8" in error
    assert "not valid UTF-8" in capfd.readouterr().err


# Normalisation


def test_auto_takes_the_statistics_of_the_checkpoint_and_clip_the_clip_s(
    tmp_path, clips, tiny_model, command
):
    checkpoint = serab_byols.save_checkpoint(tiny_model, tmp_path / "m.safetensors", statistics=(-6, 5))
    default, auto, clip, none = (tmp_path / f"{name}.parquet" for name in ("default", "auto", "clip", "none"))
    for out, *options in [(default,), (auto, "--normalization=auto"), (clip, "--normalization=clip")]:
        arguments = [clips, "--model", checkpoint, "--quiet", "-o", out, *options]
        assert cli.main(["embed", *map(str, arguments)]) == 0
    assert [metadata(path)["normalization"] for path in (default, auto, clip)] == [[-6, 5], [-6, 5], "clip"]
    np.testing.assert_array_equal(matrix(default), matrix(auto))
    assert np.abs(matrix(auto) - matrix(clip)).max() > 5e-3
    assert command(clips, "-o", none) == 0
    np.testing.assert_array_equal(matrix(none), matrix(clip))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--normalization=-6,5"], [-6, 5]),
        (["--normalization", "-.5,1e1"], [-0.5, 10]),
        (["--normalization", "-6.25,5.5"], [-6.25, 5.5]),
        (["--normalization", "6,5"], [6, 5]),
    ],
)
def test_mean_and_std_may_have_any_sign(tmp_path, clips, command, tiny_model, arguments, expected):
    out = tmp_path / "out.parquet"
    assert command(clips / "b.wav", "-o", out, *arguments) == 0
    assert metadata(out)["normalization"] == expected
    model = serab_byols.ByolsModel(tiny_model.encoder, tiny_model.frontend, normalization=expected).eval()
    assert_same(matrix(out)[0], embed_file(clips / "b.wav", model).embedding)


# Wrong usage

VALID = "a.wav -o out.npz --model tiny.safetensors"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a.wav", "required: -o/--output"),
        ("-o out.npz", "required: INPUT"),
        (f"{VALID} --colour", "unrecognized arguments: --colour"),
        (f"{VALID} --normalization batch", "'batch' shares statistics between.*no meaning for a corpus"),
        (f"{VALID} --normalization hear2021", "'hear2021' shares statistics.*no meaning for a corpus"),
        (f"{VALID} --normalization mean", "expected auto, clip or MEAN,STD, got 'mean'"),
        (f"{VALID} --normalization -6,-5", "positive std"),
        (f"{VALID} --encoder wav2vec", "invalid choice: 'wav2vec'.*default.*resnetish34.*clstm.*cvt"),
        (f"{VALID} --encoder cvt", "holds the encoder 'default', but model_name says 'cvt'"),
        (f"{VALID} --model missing.safetensors", "checkpoint missing.safetensors does not exist"),
        (f"{VALID} --device banana", "cannot use device 'banana'"),
        (f"{VALID} --timestamps --hop-size 0", "hop_size must be a finite number of milliseconds"),
        (f"{VALID} --hop-size fast", "invalid float value: 'fast'"),
        (f"{VALID} -o missing/out.npz", "folder missing does not exist"),
        ("missing.csv -o out.npz", "the list missing.csv cannot be read"),
        ("empty.csv -o out.npz", "the lists given name no files"),
        # The output is checked before anything is read.
        ("missing.csv -o out.csv --model missing", r"must end in \.parquet or \.npz, got 'out\.csv'"),
    ],
)
def test_wrong_usage_is_an_error_and_changes_no_file(
    tmp_path, tiny_checkpoint, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    write("a.wav", voice())
    shutil.copy(tiny_checkpoint, "tiny.safetensors")
    (tmp_path / "empty.csv").write_text("path\n")
    (tmp_path / "out.npz").write_bytes(b"old")
    before = names(tmp_path)
    try:
        status = cli.main(["embed", *arguments.split()])
    except SystemExit as stopped:
        status = stopped.code
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert re.search(message, captured.err, re.DOTALL), captured.err
    assert names(tmp_path) == before
    assert (tmp_path / "out.npz").read_bytes() == b"old"


# Interruptions


@pytest.mark.parametrize("name", ["out.parquet", "out.npz"])
@pytest.mark.parametrize(
    ("error", "exists"), [(KeyboardInterrupt, True), (KeyboardInterrupt, False), (RuntimeError, True)]
)
def test_a_run_that_stops_midway_leaves_the_old_output_and_no_other_file(
    tmp_path, clips, command, monkeypatch, capsys, name, error, exists
):
    out = tmp_path / name
    if exists:
        out.write_bytes(b"old")
    before, embed, calls = names(tmp_path), SceneEmbedder.__call__, []

    def fail_the_second_time(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise error  # a KeyboardInterrupt is what Ctrl-C becomes
        return embed(*arguments)

    monkeypatch.setattr(SceneEmbedder, "__call__", fail_the_second_time)
    monkeypatch.setattr(embedding, "N_CLIPS_AHEAD", 1)  # a clip at a time: the first is written before
    if error is KeyboardInterrupt:
        assert command(clips, tmp_path / "missing.wav", "-o", out) == 130
        assert "interrupted; unfinished output was removed" in capsys.readouterr().err
    else:
        with pytest.raises(error):
            command(clips, "-o", out)
    assert len(calls) == 2
    assert names(tmp_path) == before
    if exists:
        assert out.read_bytes() == b"old"


# Messages and exit statuses


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_shows_a_progress_bar_and_quiet_leaves_only_errors(
    tmp_path, clips, command, monkeypatch, capsys, quiet
):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    options = ["-o", tmp_path / "out.npz", *["--quiet"] * quiet]
    assert command(clips, *options) == 0
    shown = terminal.getvalue()
    assert ("3/3" in shown) == (not quiet)
    assert (shown == "") == quiet
    assert command(clips, tmp_path / "missing.wav", *options) == 1
    assert "missing.wav: no such file\n" in terminal.getvalue()
    assert (capsys.readouterr().out == "") == quiet


def test_as_a_program_with_its_output_in_pipes(tmp_path, clips, tiny_checkpoint):
    out = tmp_path / "out.npz"
    arguments = ["embed", clips, tmp_path / "missing.wav", "-o", out, "--model", tiny_checkpoint]
    command = [sys.executable, "-m", "serab_byols", *map(str, arguments)]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == f"{out}: 3 rows of 16 numbers from 3 clips\n"
    passed_over, first, second = done.stderr.splitlines()  # no progress bar
    assert passed_over.startswith("serab-byols: passed over 1 file")
    assert first == f"serab-byols: {tmp_path / 'missing.wav'}: no such file"
    assert second.startswith("serab-byols: 1 of 4 clips could not be embedded")
    with np.load(out) as archive:
        assert len(archive["file"]) == 3
