"""Streams that are closed, full or noisy, and signals: the command as a process of its own."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import voice, write

import serab_byols
from serab_byols import cli
from serab_byols.atomic_write import atomic_write
from serab_byols.cli.messages import FileErrors, log
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_INTERRUPTED, EXIT_USAGE
from serab_byols.errors import InvalidInputError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="shells and signals are of another kind there")
FULL = Path("/dev/full")
needs_full_device = pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")
COMMAND = f"{sys.executable} -m serab_byols"


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in a folder."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(serab_byols.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    (tmp_path / "tiny.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    write(tmp_path / "a.wav", voice())
    return tmp_path


# Closed streams


def test_embed_works_with_its_streams_closed(folder: Path) -> None:
    embed = f"{COMMAND} embed --model tiny.safetensors"
    done = shell(
        f"{embed} -o a.npz a.wav 2>&-; echo $?; {embed} -o b.npz a.wav none.wav 2>&- >&- <&-; echo $?",
        folder,
    )
    assert done.stderr == ""
    assert done.stdout == "a.npz: 1 rows of 16 numbers from 1 clips\n0\n1\n"
    first, second = (np.load(folder / name) for name in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(first["embedding"], second["embedding"])
    assert (folder / "b.npz.errors.csv").is_file()


def test_refusals_have_their_status_without_stderr(folder: Path) -> None:
    assert shell(f"{COMMAND} info missing.pth 2>&-", folder).returncode == EXIT_BAD_FILES
    assert shell(f"{COMMAND} infos 2>&-", folder).returncode == EXIT_USAGE


# Full devices


@needs_full_device
@pytest.mark.parametrize(
    ("command", "unbuffered", "status"),
    [
        ("info tiny.safetensors", "", EXIT_BAD_FILES),
        ("info tiny.safetensors", "1", EXIT_BAD_FILES),
        ("embed a.wav -o a.npz --model tiny.safetensors", "", EXIT_USAGE),
        ("--help", "", EXIT_USAGE),
    ],
)
def test_a_full_device_as_stdout(folder: Path, command: str, unbuffered: str, status: int) -> None:
    done = shell(f"{COMMAND} {command} > /dev/full", folder, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == status
    assert done.stderr.startswith("serab-byols: error: ")
    assert done.stderr.endswith(f"{os.strerror(errno.ENOSPC)}\n")
    assert done.stderr.count("\n") == 1


@needs_full_device
def test_a_full_device_as_stderr_loses_messages_alone(folder: Path) -> None:
    done = shell(f"{COMMAND} embed a.wav missing.wav -o a.npz --model tiny.safetensors 2> /dev/full", folder)
    assert done.returncode == EXIT_BAD_FILES
    assert "1 rows" in done.stdout
    assert (folder / "a.npz").is_file()


# What is no regular file, as output: pipes of the test's own, since code that is broken would replace them


@pytest.fixture
def pipe(folder: Path) -> Path:
    """A named pipe, which stands for devices as well."""
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


@pytest.mark.parametrize("link", [True, False])
def test_what_is_no_regular_file_is_not_replaced(pipe: Path, link: bool) -> None:
    output = pipe
    if link:
        output = pipe.with_name("out.npz")
        output.symlink_to(pipe)
    with pytest.raises(InvalidInputError, match="is not a regular file"), atomic_write(output) as scratch:
        scratch.write_text("new")
    assert pipe.is_fifo()


@pytest.mark.parametrize("command", ["embed a.wav", "convert tiny.safetensors"])
def test_commands_refuse_an_output_that_is_no_regular_file(
    pipe: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pipe.parent)
    name, *inputs = command.split()
    output = "out.npz" if name == "embed" else "out.safetensors"
    Path(output).symlink_to(pipe)
    options = ["-o", output, "--model", "tiny.safetensors"] if name == "embed" else [output]
    assert cli.main([name, *inputs, *options]) == (EXIT_USAGE if name == "embed" else EXIT_BAD_FILES)
    assert f"the output {output} is not a regular file" in capsys.readouterr().err
    assert pipe.is_fifo()


def test_a_reader_that_stops_is_no_error(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "serab_byols", "info", "tiny.safetensors"]
    gone = subprocess.run(command, cwd=folder, stdout=writing, stderr=subprocess.PIPE, timeout=300)
    os.close(writing)
    assert (gone.returncode, gone.stderr) == (cli.EXIT_BROKEN_PIPE, b"")


# Signals

IMPORTS = {"at the beginning": "argparse", "within torch": "torch._C", "after torch": "serab_byols.model"}


@pytest.mark.parametrize("module", IMPORTS.values(), ids=IMPORTS)
def test_an_interrupt_during_imports_is_one_line(folder: Path, module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "serab_byols", "embed", "a.wav", "-o", "a.npz"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == module:
                process.send_signal(signal.SIGINT)
                break
        rest = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.returncode == EXIT_INTERRUPTED
    assert rest == ["serab-byols: interrupted\n"]


SLOW = """
import sys, time
from serab_byols.cli import info
def read_checkpoint(name):
    print("ready", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        if name == "hidden": raise ImportError("initialisation failed") from None
        raise
info.read_checkpoint = read_checkpoint
from serab_byols.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("name", ["plain", "hidden"])
def test_an_interrupt_during_the_work(folder: Path, name: str) -> None:
    """Extension modules that are interrupted while they are imported raise an error of their own."""
    command = [sys.executable, "-c", SLOW, "info", name]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == EXIT_INTERRUPTED
    assert error == "serab-byols: interrupted; unfinished output was removed\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_signals_that_are_ignored_stay_so(name: str) -> None:
    """As under ``nohup``, and in background jobs of scripts."""
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with cli._signals_as_exceptions([]):
            assert signal.getsignal(number) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(number, before)


# Messages


def test_errors_of_files_are_capped(capsys: pytest.CaptureFixture[str]) -> None:
    errors = FileErrors(most=3)
    for i in range(5000):
        errors.add(f"{i}.wav: \x1b[2J")
    errors.finish("out.npz.errors.csv")
    assert errors.n == 5000
    assert capsys.readouterr().err.splitlines() == [
        *(rf"serab-byols: {i}.wav: \x1b[2J" for i in range(3)),
        "serab-byols: and 4997 more errors; all 5000 are in out.npz.errors.csv",
    ]


@pytest.mark.parametrize("n", [0, 3])
def test_few_errors_of_files_are_all_printed(n: int, capsys: pytest.CaptureFixture[str]) -> None:
    errors = FileErrors(most=3)
    for i in range(n):
        errors.add(f"{i}.wav")
    errors.finish()
    assert capsys.readouterr().err == "".join(f"serab-byols: {i}.wav\n" for i in range(n))


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_message_that_nobody_reads_is_dropped(
    stream: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = (tmp_path / "stderr").open("w")
    file.close()
    monkeypatch.setattr(sys, "stderr", stream and file)
    log("lost")
    assert (tmp_path / "stderr").read_text() == ""


# The MP3 decoder

DECODE = """
import contextlib, faulthandler, os, signal, sys, soundfile
from serab_byols.cli.standard_streams import mp3_decoder_silenced
if "faults" in sys.argv:
    faulthandler.enable()
def decode():
    with contextlib.suppress(soundfile.LibsndfileError):
        soundfile.read("damaged.mp3")
with mp3_decoder_silenced() if "silenced" in sys.argv else contextlib.nullcontext() as noise:
    decode()
    print("from Python", file=sys.stderr)
    os.write(2, b"from a C library\\nwithout an end")
    if "faults" in sys.argv:
        os.kill(os.getpid(), signal.SIGSEGV)
print(getattr(noise, "n_lines", None), sys.stderr.fileno())
print(", at the end", file=sys.stderr)
"""


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder with an MP3 of which the decoder complains."""
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.mp3"
    soundfile.write(path, rng.standard_normal(2 * 44100) * 0.1, 44100)
    content = bytearray(path.read_bytes())
    for position in rng.integers(500, len(content), 400):
        content[position] = rng.integers(256)
    path.write_bytes(content)
    return tmp_path


def run_decoder(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DECODE, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def decoded(folder: Path, *words: str) -> tuple[list[str], list[str]]:
    done = run_decoder(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr.splitlines()


def test_the_mp3_decoder_is_silenced_and_nothing_else(damaged: Path) -> None:
    _, loud = decoded(damaged)
    noise = [line for line in loud if line.startswith("Note: ")]
    assert noise, "this libmpg123 does not complain of the file"
    (n_lines, descriptor), quiet = decoded(damaged, "silenced")
    assert sorted(quiet) == ["from Python", "from a C library", "without an end, at the end"]
    assert int(n_lines) >= len(noise)
    assert descriptor == "2"


def test_a_crash_is_reported_in_spite_of_the_silence(damaged: Path) -> None:
    done = run_decoder(damaged, "silenced", "faults")
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr


def test_a_stream_that_is_not_the_descriptor_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from serab_byols.cli.standard_streams import mp3_decoder_silenced

    before = sys.stderr
    with mp3_decoder_silenced() as noise:
        assert sys.stderr is before
    assert noise.n_lines == 0
