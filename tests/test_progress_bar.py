"""Bars: text on terminals and in notebooks without ipywidgets, widgets with it, and none unless asked for."""

import io
import os
import sys
from collections import Counter

import numpy as np
import pytest
from parity_data import ROOT
from sounds import voice, write

import serab_byols
from serab_byols.corpus.dataset.part import NoObserver
from serab_byols.display.progress_bar import in_notebook, is_watched, progress_bar
from serab_byols.errors import AudioFileError, InvalidInputError

pytestmark = pytest.mark.usefixtures("one_thread")

WIDGET = "application/vnd.jupyter.widget-view+json"
CELLS = (
    # Without ipywidgets, as far as Python can tell.
    "import sys, warnings; sys.modules['ipywidgets'] = None; warnings.simplefilter('error')\n"
    "from serab_byols.display.progress_bar import in_notebook, is_watched, progress_bar\n"
    "assert in_notebook() and is_watched()",
    "with progress_bar('clip <1>', total=3) as bar:\n    bar.update(3)",
    # With it, and with an eye on all that its labels have ever shown.
    "del sys.modules['ipywidgets']\n"
    "from tqdm import notebook\n"
    "shown, HTML = [], notebook.HTML\n"
    "def watched():\n"
    "    label = HTML()\n"
    "    label.observe(lambda change: shown.append(change['new']), 'value')\n"
    "    return label\n"
    "notebook.HTML = watched",
    "with progress_bar('clip <b>1</b>', total=3) as bar:\n    bar.update(3)\n"
    "label, gauge, _ = bar.container.children\n"
    "print(label.value, gauge.value, gauge.bar_style, '<' in ''.join(shown))",
    "progress_bar('nothing', total=3, disable=True).close()",
    "from serab_byols.pretrain.progress import Reporting\n"
    "with Reporting(print).track('training', 2, 'step') as training:\n    training.update(loss='1')",
    "import serab_byols; from serab_byols.corpus.segments import Segment\n"
    "model = serab_byols.create_model(d=8)\n"
    "segments = [Segment('en', 'clips/en_calm.flac', i / 4, i / 4 + 1) for i in range(3)]\n"
    "records = list(serab_byols.embed_files(segments, model, progress=True))",
    "records = list(serab_byols.embed_files(segments, model))\nrecords[0]",
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The cells above, executed in a kernel."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipywidgets")
    folder = tmp_path_factory.mktemp("kernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    resources = {"metadata": {"path": str(ROOT / "examples")}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        options = {"kernel_name": "python3", "coalesce_streams": True, "timeout": 120}
        nbclient.NotebookClient(notebook, resources=resources, **options).execute()
    return notebook.cells


def stderr(cell):
    return "".join(output.text for output in cell.outputs if output.get("name") == "stderr")


def widgets(cell):
    return [output for output in cell.outputs if WIDGET in output.get("data", ())]


def test_without_ipywidgets_a_notebook_has_text_and_no_warning(cells):
    assert cells[0].outputs == []
    assert "clip <1>: 100%" in stderr(cells[1])
    assert "3/3" in stderr(cells[1])
    assert "IProgress" not in stderr(cells[1])
    assert widgets(cells[1]) == []


def test_with_ipywidgets_it_has_a_widget_that_ends_well_and_holds_no_html_of_others(cells):
    assert len(widgets(cells[3])) == 1
    (printed,) = [output.text for output in cells[3].outputs if output.get("name") == "stdout"]
    assert printed.split("%")[0].replace("\u2007", " ").strip() == "clip &lt;b&gt;1&lt;/b&gt;: 100"
    assert printed.split()[-3:] == ["3.0", "success", "False"]
    assert stderr(cells[3]) == ""
    assert cells[4].outputs == []


def test_pretraining_has_a_bar_in_notebooks(cells):
    assert len(widgets(cells[5])) == 1
    assert stderr(cells[5]) == ""


def test_in_notebooks_too_bars_are_for_those_who_ask(cells):
    assert len(widgets(cells[6])) == 1
    assert stderr(cells[6]) == ""
    (output,) = cells[7].outputs
    assert "<td" in output.data["text/html"]
    assert "Record('en', 0 to 1 s" in output.data["text/plain"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_elsewhere_only_a_terminal_is_watched(monkeypatch):
    assert not in_notebook()
    for stderr, watched in ((io.StringIO(), False), (Terminal(), True), (None, False)):
        monkeypatch.setattr(sys, "stderr", stderr)
        assert is_watched() == watched
    with progress_bar("none", total=2) as bar:  # and nowhere to draw
        bar.update()


@pytest.fixture
def clips(tmp_path):
    return [write(tmp_path / f"{i}.wav", voice(i, seconds=0.3)) for i in range(3)]


def test_embed_files_has_a_bar_if_asked(clips, tiny_model, capsys):
    plain = list(serab_byols.embed_files(clips, tiny_model))
    assert capsys.readouterr() == ("", "")
    shown = list(serab_byols.embed_files(clips, tiny_model, progress=True))
    assert "100%" in capsys.readouterr().err
    assert shown == plain
    assert list(serab_byols.embed_files(iter(clips), tiny_model, progress=True)) == plain
    assert "3clip" in capsys.readouterr().err  # of no one knows how many


def test_its_bar_counts_bad_files_and_their_errors_are_raised_as_ever(clips, tiny_model, capsys):
    paths = [*clips, "none.wav"]
    errors = []
    records = serab_byols.embed_files(
        paths, tiny_model, on_error=lambda _, error: errors.append(error), progress=True
    )
    assert len(list(records)) == 3
    assert len(errors) == 1
    assert "4/4" in capsys.readouterr().err
    with pytest.raises(AudioFileError, match=r"none\.wav"):
        list(serab_byols.embed_files(paths, tiny_model, progress=True))
    abandoned = serab_byols.embed_files(clips, tiny_model, progress=True)
    next(abandoned)
    abandoned.close()
    assert capsys.readouterr().err.endswith("\n")  # the bar has ended


def test_embed_dataset_has_a_bar_if_asked(clips, tiny_model, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    serab_byols.embed_dataset(clips[:2], tmp_path / "quiet", tiny_model)
    assert capsys.readouterr() == ("", "")
    serab_byols.embed_dataset(clips, tmp_path / "shown", tiny_model, part_size=2, progress=True)
    assert "3/3" in capsys.readouterr().err
    with pytest.raises(InvalidInputError, match="one of them"):
        serab_byols.embed_dataset(clips, tmp_path / "x", tiny_model, progress=True, observer=NoObserver())


def test_the_probe_has_a_bar_for_each_stage_if_asked(tmp_path, tiny_model, capsys):
    pytest.importorskip("sklearn")
    from serab_byols.probe import probe

    rows = ["path,label"]
    for i in range(12):
        write(tmp_path / f"{i}.wav", voice(i, seconds=0.2) * (1 + i % 2))
        rows.append(f"{i}.wav,{'ab'[i % 2]}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    (quiet,) = probe(tmp_path / "clips.csv", [tiny_model], n_folds=2)
    assert capsys.readouterr() == ("", "")
    (shown,) = probe(tmp_path / "clips.csv", [tiny_model], n_folds=2, progress=True)
    drawn = capsys.readouterr().err
    assert "clips, random weights: 100%" in drawn
    assert "folds, clips, random weights: 100%" in drawn
    np.testing.assert_array_equal(shown.confusion, quiet.confusion)
    with pytest.raises(InvalidInputError, match="one of them"):
        probe(tmp_path / "clips.csv", [tiny_model], progress=True, on_progress=Counter)
