"""The benchmark runs; how fast anything is, it does not test."""

import json
import os
import subprocess
import sys

from parity_data import ROOT


def test_quick_run(tmp_path):
    path = tmp_path / "bench.json"
    options = ["--quick", "--only", "scenes,timestamps", "--encoders", "default512", "--repeats", "1"]
    run = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "run.py"), *options, "--json", str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads wait for each other on a busy machine
    )
    assert run.returncode == 0, run.stderr
    assert "QUICK SIZES" in run.stdout
    results = json.loads(path.read_text())
    assert {"cpu", "cores", "threads", "torch"} <= set(results["machine"])
    assert list(results["sections"]) == ["scenes", "timestamps"]
    for section, tolerance in (("scenes", 1e-5), ("timestamps", 1e-4)):
        rows = {row["candidate"]: row for row in results["sections"][section]["rows"]}
        assert {"reference", "library", "matmul 512^3"} <= set(rows)
        library = rows["library"]
        assert {"median_s", "realtime_factor", "gflop_per_s", "fraction_of_peak"} <= set(library)
        assert len(library["seconds"]) == 1
        assert set(library["speedup"]) == {"median", "min", "max"}
        assert 0 <= library["difference"] <= tolerance
