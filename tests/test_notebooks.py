"""The notebooks of examples/, run as a reader would, and what they show in the repository."""

import os
import re
import runpy
from types import SimpleNamespace

import pytest
from parity_data import ROOT
from test_dependencies import EXTRAS

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipywidgets")
pytest.importorskip("plotly")

NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "examples").glob("*.ipynb"))}
MOST_BYTES = 300_000

CHECKS = {
    "quickstart": """
assert table.shape == (5, 512)
assert np.allclose(np.diag(similarity), 1)
assert similarity["en_excited"].drop("en_excited").idxmax() == "fr_excited"
assert frames.embedding.shape == (38, 512)
""",
    "speech_emotion": """
assert table.shape == (36, 6)
assert len(results) == 3 and all(len(result.predictions) == 36 for result in results)
assert results[0].accuracy > 2 * results[0].chance
assert Path("output/confusion.png").stat().st_size > 10_000
""",
    "finetune": """
assert accuracy.shape == (2, 2) and (accuracy.loc["test"] > 0.5).all()
assert accuracy.loc["training", "fine-tuned"] > 0.9
reloaded = serab_byols.load_model("output/tuned.safetensors")
assert torch.equal(reloaded.encoder.fc[0].weight, classifier[0].encoder.fc[0].weight)
assert not torch.equal(reloaded.encoder.fc[0].weight, model.encoder.fc[0].weight)
""",
    "corpus_search": """
assert summary.n_segments == len(table) == 129 and summary.n_errors == 0
assert (nearest["emotion"] == "excited").all()
assert nearest["similarity"].is_monotonic_decreasing
assert page.stat().st_size > 1_000_000
""",
}
"""What must hold after the last cell, in the notebook's own words."""


@pytest.fixture(scope="module")
def runner():
    """What the script behind ``make notebooks`` defines."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "examples" / "run_notebooks.py")))


@pytest.fixture(scope="module", params=NOTEBOOKS)
def executed(request, runner, tmp_path_factory):
    """A notebook as committed, and after a run with warnings as errors and the checks of this file."""
    folder = tmp_path_factory.mktemp("notebook")
    committed = nbformat.read(NOTEBOOKS[request.param], as_version=4)
    notebook = nbformat.read(NOTEBOOKS[request.param], as_version=4)
    strict = nbformat.v4.new_code_cell("import warnings; warnings.simplefilter('error')")
    checks = nbformat.v4.new_code_cell(CHECKS[request.param])
    notebook.cells = [strict, *notebook.cells, checks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("SERAB_BYOLS_OFFLINE", "1")
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):  # not the user's own
            patch.setenv(name, str(folder / name.lower()))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        runner.execute(notebook, runner.copy_examples(folder))
    return committed, notebook


def test_every_notebook_is_checked():
    assert NOTEBOOKS.keys() == CHECKS.keys()


def test_it_runs_and_warns_of_nothing(executed, runner):
    _, notebook = executed
    assert runner.warnings_of(notebook) == ""


def test_it_shows_bars_while_it_works(executed, runner):
    committed, notebook = executed
    if any("progress=True" in cell.source for cell in committed.cells):
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        assert any(runner._BAR in output.get("data", ()) for output in outputs)


def shown(cell):
    """Kinds and texts of a cell's outputs, whatever the numbers."""
    for output in cell.outputs:
        data = output.get("data", {})
        text = data.get("text/plain", "") + output.get("text", "")
        numbers = re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "0", text)
        yield output.output_type, sorted(data), re.sub(r"\s+", " ", numbers)


def test_the_repository_has_the_outputs_of_a_run(executed, runner):
    committed, notebook = executed
    notebook.cells = notebook.cells[1:-1]
    for cell, again in zip(committed.cells, runner.without_the_run(notebook).cells, strict=True):
        if cell.cell_type == "code":
            assert list(shown(cell)) == list(shown(again)), cell.source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_committed_is_small_and_tells_nothing_of_the_machine(name, runner):
    content = NOTEBOOKS[name].read_text(encoding="utf-8")
    assert len(content.encode()) < MOST_BYTES
    assert re.findall(r"(?<![\w.])/(?:tmp|home|root|work|Users)/", content) == []
    notebook = nbformat.reads(content, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert notebook.metadata == {"kernelspec": runner.KERNEL, "language_info": {"name": "python"}}
    assert runner.warnings_of(notebook) == ""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_cell_says_what_to_install(name):
    first = nbformat.read(NOTEBOOKS[name], as_version=4).cells[0].source
    (extras,) = re.findall(r"^    pip install '\.\[([\w,]+)\]' jupyterlab$", first, re.MULTILINE)
    assert set(extras.split(",")) <= EXTRAS.keys()
    assert f"jupyter lab examples/{name}.ipynb" in first


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_lead_somewhere(name):
    cells = nbformat.read(NOTEBOOKS[name], as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text) + re.findall(r"`(\w+\.ipynb)`", text)
    assert [link for link in links if not (NOTEBOOKS[name].parent / link).exists()] == []
