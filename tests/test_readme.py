"""The code of the README and of the pages of docs/, run as a reader would."""

import re
import shlex
import shutil

import numpy as np
import pytest
from page_code import blocks, run_page
from parity_data import ROOT

from serab_byols import embed_files
from serab_byols.cli import main
from serab_byols.hear_benchmark.predictor_grid import GRIDS
from serab_byols.integrations.model_export import torch_can_export

pytestmark = pytest.mark.usefixtures("one_thread")  # the trainings are tiny


def test_code_blocks_run(folder, capsys):
    session = run_page("README.md")
    assert session["embeddings"].shape == (2, 41, 512)
    assert session["frames"].embedding.shape == (63, 512)
    assert (folder / "embeddings.parquet").is_file()
    assert "byols-audiontt-512-distilled" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["docs/export.md", "docs/layer_features.md"])
def test_a_page_runs(folder, page):
    if page == "docs/export.md":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
        if not torch_can_export():
            pytest.skip("exporting needs torch 2.13 or newer")
    session = {}
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, page, "exec"), session)
        else:
            for line in code.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "serab-byols"
                assert main(arguments) == 0, line
    if page == "docs/export.md":
        assert session["embedding"].shape == (1, 512)
        assert (folder / "clip.onnx").is_file()
    else:
        assert session["mixed"].shape == (2, 37, 512)


def test_the_pretraining_page_runs(folder):
    (code,) = [code for language, code in blocks("docs/pretraining.md") if language == "python"]
    session = {}
    exec(compile(code, "pretraining.md", "exec"), session)
    assert session["result"].finished
    assert (folder / "small.safetensors").is_file()


def test_the_corpora_page_runs(folder):
    pytest.importorskip("duckdb")
    pytest.importorskip("polars")
    pytest.importorskip("usearch")
    pytest.importorskip("datasets")
    session = {}
    for language, code in blocks("docs/corpora.md"):
        if language == "sh":
            for line in code.splitlines():
                assert main(shlex.split(line)[1:]) == 0, line
        else:
            exec(compile(code, "corpora.md", "exec"), session)
    assert session["summary"].n_embedded == 0  # the command did it
    embeddings = [record.embedding for record in embed_files(session["clips"]["path"], session["model"])]
    np.testing.assert_allclose(np.stack(session["clips"]["embedding"]), embeddings, rtol=1e-5)
    np.testing.assert_allclose(np.stack(session["speech"]["embedding"]), embeddings, rtol=1e-4, atol=1e-4)
    similarities = [similarity for _, similarity in session["nearest"]]
    assert len(similarities) == 3
    assert similarities == sorted(similarities, reverse=True)
    found = [session["names"][key] for key in session["matches"].keys]
    assert found[0] == session["query"]
    assert found[1:] == [file for file, _ in session["nearest"][:2]]
    assert list(session["classifier"].classes_) == ["calm", "excited"]
    assert session["floats"].shape == (5, 128)
    assert session["index_of_int8"].search(session["vectors"][2], 1).keys[0] == 2


@pytest.mark.parametrize("page", ["docs/benchmark-adapters.md", "docs/hear-validate.md"])
def test_pages_on_benchmarks_run(folder, page):
    session = {}
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, page, "exec"), session)
        for line in code.splitlines() if language == "sh" else ():
            program, *arguments = shlex.split(line)
            assert program == "serab-byols"
            assert main(arguments) == 0, line


def test_the_page_on_hear_runs(folder, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    quick = {**GRIDS["faster"], "hidden_dim": [16], "max_epochs": [3]}
    monkeypatch.setitem(GRIDS, "default", quick)
    clips = sorted((folder / "examples" / "clips").glob("*.flac"))
    rows = [f"clip{i}.flac,{i % 2}" for i in range(20)]
    (folder / "clips.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    for i in range(20):
        shutil.copy(clips[i % 2], folder / f"clip{i}.flac")
    n_commands = 0
    for language, code in blocks("docs/hear.md"):
        for line in code.replace("\\\n", " ").splitlines():
            if language == "sh" and line.startswith("serab-byols "):
                assert main(shlex.split(line)[1:]) == 0, line
                n_commands += 1
    assert n_commands == 2
    assert "my_task  top1_acc" in capsys.readouterr().out


def test_the_integrations_page_runs(folder):
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("opensmile")
    shutil.copy(ROOT / "hubconf.py", folder)
    session = {}
    for language, code in blocks("docs/integrations.md"):
        assert language == "python"
        exec(compile(code, "integrations.md", "exec"), session)
    assert (folder / "shared" / "README.md").is_file()
    assert session["shared"].embedding_size == 512
    assert 0 <= session["scores"].mean() <= 1
    assert session["untrained"].encoder.name == "cvt"
    for table in ("both", "both_of_segments"):
        assert session[table].shape == (5, 512 + 88)
        assert not session[table].isna().any(axis=None)
    assert session["features"].shape[1] == 512


def test_the_pictures_page_runs(folder):
    pytest.importorskip("plotly")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    session = {}
    try:
        for language, code in blocks("docs/pictures.md"):
            if language == "python":
                exec(compile(code, "pictures.md", "exec"), session)
            else:
                for line in code.splitlines():
                    assert main(shlex.split(line)[1:]) == 0, line
    finally:
        pyplot.close("all")
    for name in ("en_calm.png", "map.png", "two.pdf", "corpus.html", "again.html"):
        assert (folder / name).stat().st_size > 10_000, name


def test_the_script_of_embedding_atlas_has_the_commands_of_the_page():
    page = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"```\n(python -m venv atlas\n.*?)```", page, re.DOTALL)
    script = (ROOT / "recipes" / "embedding_atlas.sh").read_text(encoding="utf-8")
    assert [line for line in commands.splitlines() if line.strip("& \\") not in script] == []


PAGES = [str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", PAGES)
def test_links_point_to_existing_files(name):
    page = ROOT / name
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {"demo", "test"}
    assert named <= targets
