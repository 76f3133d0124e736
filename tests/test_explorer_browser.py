"""The explorer in a browser: drawn, clicked, heard, searched; nothing leaves the machine, no name runs."""

from __future__ import annotations

import csv
import http.server
import io
import json
import threading

import numpy as np
import pandas
import pytest
from headless_browser import browser, chromium
from sounds import voice, write
from test_explorer import HOSTILE

from serab_byols.viz import write_explorer
from serab_byols.viz.clip_files import clip_files
from serab_byols.viz.explorer_page import explorer_content, page_html
from serab_byols.viz.explorer_server import ExplorerServer, audio_urls
from serab_byols.viz.table_rows import read_table_rows

pytest.importorskip("plotly")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the browser's connection

N_ROWS = 20_000
LOCAL = ("file:", "data:", "blob:", "about:")
PLACE = """(() => {{
  const { xaxis, yaxis } = $("map")._fullLayout;
  const box = document.querySelector(".nsewdrag").getBoundingClientRect();
  return [box.left + xaxis.l2p(x[{row}]), box.top + yaxis.l2p(y[{row}])];
}})()""".replace("{ xaxis, yaxis }", "{{ xaxis, yaxis }}")


@pytest.fixture(scope="module")
def new_page():
    chromium()
    with browser() as new_page:
        yield new_page


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of clips with any names, and a table of 20 000 segments of them; row 0 lies apart from all."""
    folder = tmp_path_factory.mktemp("corpus")
    names = [*HOSTILE, "plain.wav", "sub/odd.aiff"]
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        write(folder / name, voice(seed, 2.0), format="AIFF" if name.endswith("aiff") else "WAV")
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 3, N_ROWS)
    vectors = rng.normal(size=(3, 8))[groups] + rng.normal(size=(N_ROWS, 8)) * 0.3
    vectors[0] = -3 * vectors.mean(axis=0)
    table = pandas.DataFrame(
        {
            "file": [names[row % len(names)] for row in range(N_ROWS)],
            "start": 0.25 + (np.arange(N_ROWS) % 4) * 0.25,
            "end": 0.5 + (np.arange(N_ROWS) % 4) * 0.25,
            "<b onmouseover=alert(3)>": [
                "<img src=http://127.0.0.1:9/x onerror=alert(4)>",
                "<a href='javascript:alert(5)'>link</a>",
                "plain",
            ]
            * (N_ROWS // 3)
            + ["plain"] * (N_ROWS % 3),
            "number": np.arange(N_ROWS) / 2,
            "embedding": list(vectors.astype(np.float32)),
        }
    )
    return folder, table


@pytest.fixture(scope="module")
def page(corpus, new_page):
    folder, table = corpus
    path = write_explorer(table, folder / "<b>x<b>.html", audio_root=folder, method="pca", colour="number")
    page = new_page()
    page.open(path.as_uri())
    return page


def test_every_point_is_drawn(page):
    assert page.evaluate("type") == "scattergl"
    drawn = page.evaluate("$('map').data.slice(0, -2).map((trace) => trace.x.length)")
    assert drawn == [N_ROWS]
    assert page.evaluate("$('map').data[0].marker.color.length") == N_ROWS
    seen = """(() => {
      const canvas = document.querySelector(".gl-canvas-context");
      const gl = canvas.getContext("webgl") ?? canvas.getContext("webgl2");
      draw();
      const picture = document.createElement("canvas");
      [picture.width, picture.height] = [canvas.width, canvas.height];
      const flat = picture.getContext("2d");
      flat.drawImage(canvas, 0, 0);
      const values = flat.getImageData(0, 0, canvas.width, canvas.height).data;
      return values.filter((value, i) => i % 4 === 3 && value > 99).length;
    })()"""
    assert page.evaluate(seen) > 1000


def test_a_click_plays_the_clip_and_lists_neighbours(page, corpus):
    _, table = corpus
    page.click(*page.evaluate(PLACE.format(row=0)))
    page.wait_for("current === 0 && $('audio').currentTime > 0.3 && $('audio').paused")
    assert page.evaluate("$('audio').currentTime") == pytest.approx(table["end"][0], abs=0.1)  # a segment
    assert page.evaluate("$('audio').duration") == pytest.approx(2.0)
    assert page.evaluate("$('problem').textContent") == ""
    assert page.evaluate("$('name').textContent") == f"{HOSTILE[0]} 0.25 to 0.50 s"
    vectors = np.stack(table["embedding"])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit[0]
    overlaps = (table["file"] == table["file"][0]) & (table["start"] == table["start"][0])
    nearest = np.argsort(-np.where(overlaps, -2, similarity), kind="stable")[:10]
    shown = page.evaluate("[...$('neighbours').children].map((item) => item.textContent)")
    assert shown == [
        f"{table['file'][row]} {table['start'][row]:.2f} to {table['end'][row]:.2f} s ({similarity[row]:.3f})"
        for row in nearest
    ]
    facts = page.evaluate("[...$('facts').rows].map((row) => [...row.cells].map((cell) => cell.textContent))")
    assert facts[2] == ["<b onmouseover=alert(3)>", table.iloc[0, 3]]
    page.evaluate("$('neighbours').querySelector('button').click()")
    assert page.evaluate("current") == nearest[0]


def test_names_are_shown_without_the_folder_that_all_have(page):
    def folder(*names):
        return page.evaluate(f"commonFolder({json.dumps(names)})")

    assert folder("/data/clips/a.wav", "/data/clips/b/c.wav") == "/data/clips/"
    assert folder("C:\\clips\\a1.wav", "C:\\clips\\a2.wav") == "C:\\clips\\"
    assert folder("clips/a.wav", "noise/a.wav") == folder("ab.wav", "a.wav") == folder() == ""
    assert page.evaluate("$('neighbours').querySelector('button').title") == page.evaluate(
        "fullName(nearestTo(current)[0])"
    )


def test_hovering_tells_the_file(page):
    page.mouse("mouseMoved", *page.evaluate(PLACE.format(row=0)))
    page.wait_for("!$('tip').hidden")
    assert page.evaluate("$('tip').textContent") == f"{HOSTILE[0]} 0.25 to 0.50 s\nnumber: 0"


def test_search_selects_and_exports(page, corpus):
    _, table = corpus
    page.evaluate("$('search').value = 'PLAIN.wav  link'; $('search').dispatchEvent(new Event('input'))")
    page.wait_for("selected !== null")
    is_found = (table["file"] == "plain.wav") & table.iloc[:, 3].str.contains("link")
    rows = np.flatnonzero(is_found)
    assert len(rows) > 100
    assert page.evaluate("selected") == rows.tolist()
    assert page.evaluate("$('count').textContent") == f"{len(rows)} of {N_ROWS} clips"
    assert page.evaluate("$('map').data[0].selectedpoints.length") == len(rows)
    exported = list(csv.reader(io.StringIO(page.evaluate("csv(selected)"), newline="")))
    assert exported[0] == [name for name in table if name != "embedding"]
    assert exported[1] == [str(value) for value in table.iloc[rows[0], :4]] + [f"{rows[0] / 2:g}"]
    page.evaluate("$('clear').click()")
    assert page.evaluate("selected") is None


def test_a_lasso_selects_and_the_export_is_a_file(page, corpus, tmp_path):
    _, table = corpus
    page.evaluate("Plotly.relayout($('map'), {dragmode: 'lasso'}).then(() => {})")
    x, y = page.evaluate(PLACE.format(row=0))
    page.mouse("mouseMoved", x - 20, y - 20)
    page.mouse("mousePressed", x - 20, y - 20)
    for corner in [(x + 20, y - 20), (x + 20, y + 20), (x - 20, y + 20), (x - 20, y - 20)]:
        page.mouse("mouseDragged", *corner)
    page.mouse("mouseReleased", x - 20, y - 20)
    page.wait_for("selected !== null")
    assert page.evaluate("selected") == [0]
    page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.evaluate("$('export').click()")
    file = tmp_path / "selection.csv"
    for _ in range(200):
        if file.is_file() and file.stat().st_size:
            break
        page.evaluate("new Promise((done) => setTimeout(done, 50))")
    (exported,) = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
    assert exported["file"] == table["file"][0]
    page.evaluate("$('clear').click(); Plotly.relayout($('map'), {dragmode: 'pan'}).then(() => {})")


def test_every_column_colours(page, corpus):
    _, table = corpus
    names = page.evaluate("[...$('colour').options].map((option) => option.text)")
    assert names == ["(none)", "file", "start (s)", "end (s)", "<b onmouseover=alert(3)>", "number"]
    colour = "$('colour').value = {}; $('colour').dispatchEvent(new Event('change'))"
    page.evaluate(colour.format(3))
    page.wait_for("$('map').data.length === 5")
    legend = page.evaluate("document.querySelector('.legend').textContent")
    assert all(value in legend for value in set(table.iloc[:, 3]))  # tags are shown, not obeyed
    assert page.evaluate("document.querySelectorAll('.legend a').length") == 0
    counts = page.evaluate("$('map').data.slice(0, -2).map((trace) => trace.x.length)")
    assert sorted(counts) == sorted(table.iloc[:, 3].value_counts())
    page.evaluate(colour.format(-1))
    page.wait_for("$('map').data.length === 3")


def test_names_do_nothing(page, corpus):
    for row in range(12):
        page.evaluate(f"choose({row})")
    page.evaluate("new Promise((done) => setTimeout(done, 200))")
    assert page.dialogs == []
    inside = "document.querySelectorAll('aside img, aside b, aside a, aside script, #tip *').length"
    assert page.evaluate(inside) == 0
    assert page.evaluate("document.scripts.length") == 3
    assert page.evaluate("document.title") == "<b>x<b>"
    errors = [text for text in page.messages if "GL Driver" not in text and "ERR_FILE" not in text]
    assert errors == []


def test_what_cannot_be_played_is_said(page):
    page.evaluate("choose(5)")
    page.wait_for("$('problem').textContent.includes('--serve')")
    page.evaluate("choose(4)")
    page.wait_for("$('audio').currentTime > 0.2")
    assert page.evaluate("$('problem').textContent") == ""


def test_nothing_leaves_the_machine(page, corpus):
    folder, _ = corpus
    assert [url for url in page.requests if not url.startswith(LOCAL)] == []
    files = [url for url in page.requests if url.startswith("file:")]
    assert len(files) > 3
    assert all(url.startswith(folder.as_uri()) for url in files)
    buttons = page.evaluate("[...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title)")
    assert "Lasso Select" in buttons
    assert not [title for title in buttons if any(word in title for word in ("loud", "tudio", "hare"))]


def test_the_policy_stops_what_would_leave(page):
    """Whatever came into the page, it could not send anything."""
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        page.evaluate(
            f"""(async () => {{
              await fetch("{url}/fetch", {{ mode: "no-cors" }}).catch(() => {{}});
              for (const tag of ["img", "script", "iframe", "audio", "link"]) {{
                const element = document.createElement(tag);
                if (tag === "link") {{ element.rel = "stylesheet"; element.href = "{url}/link"; }}
                else element.src = `{url}/${{tag}}`;
                document.body.append(element);
              }}
              navigator.sendBeacon("{url}/beacon", "x");
              await new Promise((done) => setTimeout(done, 300));
            }})()"""
        )
        server.shutdown()
        thread.join()
    assert asked == []


def test_the_served_page_plays_what_browsers_do_not(corpus, new_page):
    folder, table = corpus
    read = read_table_rows(table.head(60))
    files = clip_files(read, folder)
    content = explorer_content(read, files, method="pca")
    text = page_html(content, audio_urls(files.paths), title="served", served=True)
    with ExplorerServer(text, files.paths) as server:
        thread = threading.Thread(target=server._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        page = new_page()
        page.open(server.url)
        for row in (0, 5):  # a WAV, and an AIFF
            page.click(*page.evaluate(PLACE.format(row=row)))
            page.wait_for(f"current === {row} && $('audio').currentTime > 0.2 && $('audio').paused")
            assert page.evaluate("$('problem').textContent") == ""
            assert page.evaluate("$('audio').duration") == pytest.approx(2.0)
        server.stop()
        thread.join()
    asked = [url for url in page.requests if not url.startswith(LOCAL)]
    assert asked[0] == server.url
    assert {url.removeprefix(server.url).partition("#")[0] for url in asked} == {"", "audio/0", "audio/5"}
    assert [text for text in page.messages if "GL Driver" not in text] == []
