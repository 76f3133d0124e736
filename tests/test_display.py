"""What notebooks show of models and records."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from serab_byols import Record, create_model
from serab_byols.display.html_table import html_table
from serab_byols.display.printable import printable
from serab_byols.display.value_sketch import value_sketch

HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J.wav"


class Cells(HTMLParser):
    """The tags of a page, and the text in its cells."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts = set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag in ("th", "td"):
            self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += data


def facts(html):
    """Title, and the rows as a dict."""
    cells = Cells(html)
    assert cells.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    title, *rest = cells.texts
    return title, dict(zip(rest[::2], rest[1::2]))


def test_a_table_holds_text_and_nothing_else():
    title, rows = facts(html_table("Title", {"file": HOSTILE, "<i>": "1 < 2"}))
    assert title == "Title"
    assert rows == {"file": printable(HOSTILE), "<i>": "1 < 2"}
    assert "\\x1b[2J" in rows["file"]


def test_a_model_tells_what_its_repr_tells():
    model = create_model("cvt", normalization=(-6.0, 5.0))
    model.source = HOSTILE
    title, rows = facts(model._repr_html_())
    assert title == "ByolsModel"
    assert rows["weights"] == printable(HOSTILE)
    for name, fact in rows.items():
        assert name == "weights" or f"  {name}: {fact}\n" in repr(model)
    assert {"16000", "2048", "cvt", "-6"} <= set(re.findall(r"-?\w+", " ".join(rows.values())))


def test_a_record_shows_its_file_its_time_and_a_sketch():
    embedding = np.linspace(-1, 3, 512, dtype=np.float32)
    title, rows = facts(Record(HOSTILE, 0.5, 1.75, embedding)._repr_html_())
    assert title == "Record"
    assert rows["file"] == printable(HOSTILE)
    assert rows["segment"] == "0.5 to 1.75 s"
    assert rows["embedding"] == "512 values from -1 to 3"
    assert len(rows["values"]) == 64
    assert rows["values"] == "".join(sorted(rows["values"]))  # they rise
    assert len(Record("a", 0.5, 1.75, embedding)._repr_html_()) < 2000


def test_a_record_of_frames_shows_their_times_and_norms():
    embedding = np.ones((5, 16), np.float32) * np.arange(1, 6, dtype=np.float32)[:, None]
    time = np.arange(5) * 0.05
    record = Record("a.wav", np.maximum(time - 0.5, 0), np.minimum(time + 0.5, 0.21), embedding, time)
    _, rows = facts(record._repr_html_())
    assert rows["segment"] == "0 to 0.21 s"
    assert rows["frames"] == "5, centred at 0 to 0.2 s"
    assert rows["embedding"] == "16 values from 1 to 5, for each frame"
    assert rows["norm over time"] == "▁▃▅▆█"


@pytest.mark.parametrize(
    ("values", "sketch"),
    [
        ([], ""),
        ([np.nan, np.inf], ""),
        ([2.0], "▁"),
        ([0, 7, np.nan, 3.5], "▁█▅"),
        (np.repeat([1.0, 0.0], 64), "█" * 32 + "▁" * 32),
    ],
)
def test_a_sketch_has_a_bar_for_each_number_or_some(values, sketch):
    assert value_sketch(np.array(values)) == sketch
