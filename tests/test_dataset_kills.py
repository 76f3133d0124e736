"""A dataset is the same however often its run is killed, and when the disk is full."""

import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from sounds import voice, write

N_CLIPS = int(os.environ.get("CORPUS_CLIPS", 160))  # a multiple of 10
KILLED_RUNS = Path(__file__).with_name("killed_runs.py")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Short clips; every tenth is damaged."""
    folder = tmp_path_factory.mktemp("clips")
    sounds = [voice(seed, 0.4) for seed in range(8)]
    for i in range(N_CLIPS):
        write(folder / f"{i:03d}.wav", sounds[i % 8] * (0.1 + i / N_CLIPS))
        if i % 10 == 3:  # 0, 20 or 40 bytes are left
            (folder / f"{i:03d}.wav").write_bytes((folder / f"{i:03d}.wav").read_bytes()[: 20 * (i % 3)])
    return folder


def arguments(clips, checkpoint):
    return ["embed", clips, "--model", checkpoint, "--part-size", "9", "--quiet"]


def run_killed(n_kills, out, command, seed=0):
    script = [sys.executable, KILLED_RUNS, seed, n_kills, out, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, script)), capture_output=True, text=True, timeout=240 + N_CLIPS, env=environment
    )
    n_killed, status = done.stdout.split()[-2:]
    return int(n_killed), int(status)


def rows(out):
    return pandas.read_parquet(out)


def errors(out):
    return (out / "__run" / "errors.csv").read_text()


@pytest.fixture(scope="module")
def uninterrupted(clips, tiny_checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "dataset"
    assert run_killed(0, out, arguments(clips, tiny_checkpoint)) == (0, 1)
    assert len(rows(out)) == N_CLIPS * 9 // 10
    assert len(errors(out).splitlines()) == 1 + N_CLIPS // 10
    return out


def test_killed_at_any_moment_it_ends_with_the_same_rows(clips, tiny_checkpoint, tmp_path, uninterrupted):
    out = tmp_path / "dataset"
    n_killed, status = run_killed(10, out, arguments(clips, tiny_checkpoint))
    assert (n_killed > 3, status) == (True, 1)
    pandas.testing.assert_frame_equal(rows(out), rows(uninterrupted))
    assert errors(out) == errors(uninterrupted)
    assert {path.name for path in (out / "__run").iterdir()} - {"scratch"} == {
        *("errors", "errors.csv", "lock", "plan", "run.json")
    }
    assert not list(out.rglob("*.part"))
    assert sorted(path.name for path in (out / "__run" / "errors").iterdir()) == sorted(
        path.name for path in (uninterrupted / "__run" / "errors").iterdir()
    )


def test_a_full_disk_ends_a_run_that_can_go_on(clips, tiny_checkpoint, tmp_path, uninterrupted):
    """Files of more than 4 kB cannot be written, as if the disk had no more room."""
    out = tmp_path / "dataset"
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from serab_byols.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = arguments(clips, tiny_checkpoint)
    full = [sys.executable, "-c", limited, *map(str, command), "-o", f"{out}/"]
    done = subprocess.run(full, capture_output=True, text=True)
    assert done.returncode == 2
    assert "serab-byols: error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.glob("*.parquet"))
    assert run_killed(0, out, command) == (0, 1)
    pandas.testing.assert_frame_equal(rows(out), rows(uninterrupted))
