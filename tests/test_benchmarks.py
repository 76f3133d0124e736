"""The benchmark runs; it is not tested how fast anything is."""

import json
import runpy
from importlib.util import find_spec

import pytest
from parity_data import ROOT

from serab_byols.integrations.model_export import torch_can_export

pytestmark = pytest.mark.usefixtures("one_thread")


def test_quick_run(tmp_path, monkeypatch, capsys):
    path = tmp_path / "bench.json"
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    main = runpy.run_path(str(ROOT / "benchmarks" / "run.py"), run_name="benchmark")["main"]
    options = "--quick --only scenes,timestamps,exported --encoders default512 --repeats 1 --json"
    main([*options.split(), str(path)])
    assert "QUICK SIZES" in capsys.readouterr().out
    results = json.loads(path.read_text())
    assert {"cpu", "cores", "threads", "torch"} <= set(results["machine"])
    assert list(results["sections"]) == ["scenes", "timestamps", "exported"]
    for section, tolerance in (("scenes", 1e-5), ("timestamps", 1e-4)):
        rows = {row["candidate"]: row for row in results["sections"][section]["rows"]}
        assert {"reference", "library", "matmul 512^3"} <= set(rows)
        library = rows["library"]
        assert {"median_s", "realtime_factor", "gflop_per_s", "fraction_of_peak"} <= set(library)
        assert len(library["seconds"]) == 1
        assert set(library["speedup"]) == {"median", "min", "max"}
        assert 0 <= library["difference"] <= tolerance
    rows = results["sections"]["exported"]["rows"]
    if torch_can_export():
        assert {row["candidate"] for row in rows} == {"module", "onnxruntime", "torch.export"}
    assert all(row["difference"] <= 5e-5 for row in rows)


def test_the_corpus_benchmark_runs(tmp_path, monkeypatch, capsys):
    path = tmp_path / "corpus.json"
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    main = runpy.run_path(str(ROOT / "benchmarks" / "corpus.py"), run_name="benchmark")["main"]
    options = "--clips 6 --clip-s 0.3 --size 16 --part-size 4 --repeats 1 --workers --json"
    main([*options.split(), str(path)])
    assert "once started" in capsys.readouterr().out
    results = json.loads(path.read_text())["sections"]
    rows = {row["candidate"]: row for row in results["throughput"]["rows"]}
    assert list(rows) == ["one file", "dataset", "dataset, local engine"]
    assert all(row["clips_per_s_once_started"] > 0 for row in rows.values())
    stages = [row["stage"] for row in results["stages"]["rows"]]
    downloads = ["download"] if find_spec("aiohttp") else []
    assert stages == ["listing", "planning", *downloads, "decoding", "encoder", "writing"]
    assert sum(row["share"] for row in results["stages"]["rows"]) == pytest.approx(1)
    sizes = {row["stored"]: row["row_bytes"] for row in results["sizes"]["rows"]}
    assert sizes["float16, none"] < sizes["float32, none"]
