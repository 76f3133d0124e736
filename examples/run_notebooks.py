"""Run the notebooks of this folder and keep what they show: what ``make notebooks`` does.

Each runs in a kernel of its own and in a copy of this folder, so that none leans on what another one wrote.
Tables, texts and pictures are kept, which are the same in every run with the same versions; progress bars and
facts about the run are not. Needs the extra ``dev``.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
TIMEOUT_S = 300
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
_BAR = "application/vnd.jupyter.widget-view+json"


def copy_examples(target: Path) -> Path:
    """A copy of the notebooks and their recordings; returns its folder."""
    folder = target / "examples"
    for recordings in ("clips", "emotions"):
        shutil.copytree(FOLDER / recordings, folder / recordings)
    for notebook in FOLDER.glob("*.ipynb"):
        shutil.copy(notebook, folder)
    return folder


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in a fresh kernel that works in ``folder``; outputs are put into the notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        resources=resources,
        record_timing=False,
        coalesce_streams=True,  # printed in how many pieces is chance
        extra_arguments=["--log-level=40"],  # errors, not that TCP is not encrypted
    )
    return client.execute()


def warnings_of(notebook: NotebookNode) -> str:
    """What an executed notebook printed on stderr."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


def without_the_run(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs from run to run."""
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _BAR not in output.get("data", ())]
    return notebook


def main() -> int:
    paths = sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        with tempfile.TemporaryDirectory() as temporary:
            notebook = execute(nbformat.read(path, as_version=4), copy_examples(Path(temporary)))
        if warnings_of(notebook):
            print(f"{path.name} warns:\n{warnings_of(notebook)}", file=sys.stderr)
            return 1
        nbformat.write(without_the_run(notebook), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
