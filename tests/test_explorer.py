"""The explorer: tables that it reads, the page, neighbours, and the server, which gives away nothing else."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import http.client
import io
import json
import re
import threading
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
from sounds import voice, write

import serab_byols
from serab_byols.cli import main
from serab_byols.corpus.record import Record
from serab_byols.corpus.tables import TableFormat, open_table
from serab_byols.corpus.vector_format import VectorFormat
from serab_byols.errors import InvalidInputError, MissingExtraError
from serab_byols.integrations.pandas import to_frame
from serab_byols.viz import write_explorer
from serab_byols.viz.clip_files import clip_files, page_urls
from serab_byols.viz.explorer_page import MOST_ROWS, page_html
from serab_byols.viz.explorer_server import ExplorerServer, audio_urls
from serab_byols.viz.nearest_neighbours import nearest_neighbours
from serab_byols.viz.table_rows import TableRows, read_table_rows

pytest.importorskip("plotly")

HOSTILE = (
    "</script><script>alert(1)</script>.wav",
    '"><img src=x onerror=alert(2)>.wav',
    "line\nbreak'.wav",
    "<!--#?%41 &amp; .wav",
)


class Parsed(html.parser.HTMLParser):
    """Elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data

    @property
    def content(self):
        return json.loads(self.scripts[0])

    @property
    def policy(self):
        (meta,) = (a for tag, a in self.elements if a.get("http-equiv") == "Content-Security-Policy")
        return dict(part.split(" ", 1) for part in meta["content"].split("; "))


def numbers(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def some_table(files, **columns):
    embedding = np.random.default_rng(0).normal(size=(len(files), 4)).astype(np.float32)
    return pandas.DataFrame({"file": files, **columns, "embedding": list(embedding)})


def save(table, path):
    """As ``embed`` would write it."""
    with open_table(path, TableFormat(VectorFormat(4), columns={"label": None})) as writer:
        for row in table.itertuples():
            writer.add(Record(row.file, 0.0, 1.0, row.embedding), {"label": row.label})


# Tables


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(3):
        write(folder / f"{seed}.wav", voice(seed, 0.4))
    return folder


@pytest.mark.parametrize("output", ["t.parquet", "t.npz", "t/"])
@pytest.mark.parametrize("timestamps", [False, True])
def test_tables_that_embed_writes(
    output, timestamps, clips, tmp_path, tiny_checkpoint, tiny_model, one_thread
):
    pytest.importorskip("pyarrow")
    path = f"{tmp_path}/{output}"
    command = ["embed", str(clips), "-o", path, "--model", str(tiny_checkpoint), "--quiet"]
    assert main(command + ["--timestamps", "--hop-size", "200"] * timestamps) == 0
    table = read_table_rows(path)
    assert list(table.columns) == ["file", "start", "end"] + ["time"] * timestamps
    assert len(table) == 3 * (3 if timestamps else 1)
    records = {
        record.file: record
        for record in serab_byols.embed_files(
            sorted(map(str, clips.iterdir())), tiny_model, timestamps=timestamps, hop_size=200
        )
    }
    for row, file in enumerate(table.columns["file"]):
        expected = np.atleast_2d(records[file].embedding)
        k = row % 3 if timestamps else 0
        np.testing.assert_allclose(table.embedding[row], expected[k], rtol=1e-4, atol=1e-5)
    assert all(source.is_file() for source in table.sources)
    page = write_explorer(path, tmp_path / "page.html")
    assert Parsed(page.read_text(encoding="utf-8")).content["hasSegments"]


@pytest.mark.parametrize("output", ["t.parquet", "t.npz"])
def test_integers_are_multiplied_by_their_scale(output, clips, tmp_path, tiny_checkpoint, one_thread):
    pytest.importorskip("pyarrow")
    command = ["embed", str(clips), "--model", str(tiny_checkpoint), "--quiet", "-o"]
    assert main([*command, f"{tmp_path}/plain.npz"]) == 0
    assert main([*command, f"{tmp_path}/{output}", "--embedding-dtype", "int8"]) == 0
    plain, small = read_table_rows(tmp_path / "plain.npz"), read_table_rows(tmp_path / output)
    assert list(small.columns) == list(plain.columns)
    np.testing.assert_allclose(small.embedding, plain.embedding, atol=np.abs(plain.embedding).max() / 200)
    if output == "t.parquet":
        again = read_table_rows(pandas.read_parquet(tmp_path / output))
        np.testing.assert_array_equal(again.embedding, small.embedding)


@pytest.mark.parametrize("timestamps", [False, True])
def test_frames_of_pandas_that_to_frame_makes(timestamps, clips, tiny_model):
    paths = sorted(map(str, clips.iterdir()))
    records = list(serab_byols.embed_files(paths, tiny_model, timestamps=timestamps, hop_size=200))
    table = read_table_rows(to_frame(records).assign(label="x"))
    assert list(table.columns) == ["file", "start", "end"] + ["time"] * timestamps + ["label"]
    expected = np.concatenate([np.atleast_2d(record.embedding) for record in records])
    np.testing.assert_array_equal(table.embedding, expected)
    if timestamps:
        np.testing.assert_allclose(table.columns["time"], np.concatenate([r.time for r in records]))


def test_frames_with_an_index_of_segments():
    index = pandas.MultiIndex.from_arrays(
        [["a", "b"], pandas.to_timedelta([0, 1.5], "s"), pandas.to_timedelta([1, pandas.NaT], "s")],
        names=["file", "start", "end"],
    )
    wide = pandas.DataFrame(np.eye(2, 3), index=index, columns=[0, 1, 2]).assign(
        label=["x", None], age=[3, 4]
    )
    table = read_table_rows(wide)
    assert list(table.columns) == ["file", "start", "end", "label", "age"]
    assert table.columns["start"].tolist() == [0.0, 1.5]
    assert table.columns["label"].tolist() == ["x", ""]
    assert table.embedding.tolist() == np.eye(2, 3).tolist()
    assert np.isnan(table.columns["end"][1])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"file": ["a"]}, "no column 'embedding'; it has file"),
        ({"embedding": [[1.0], [1.0, 2.0]]}, "not vectors of one size"),
        ({"embedding": []}, "must be vectors of one size"),
        ({"embedding": [[1.0, np.nan], [1.0, 2.0]]}, "1 embeddings are not finite, the first in row 0"),
    ],
)
def test_tables_without_embeddings(columns, said):
    with pytest.raises(InvalidInputError, match=said):
        read_table_rows(pandas.DataFrame(columns))


def test_tables_that_cannot_be_read(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "a.npz").write_bytes(b"no")
    (tmp_path / "folder").mkdir()
    for name, said in [
        ("a.parquet", "cannot be read"),
        ("a.npz", "not an .npz file"),
        ("a.csv", "there is no table"),
        ("folder", "is no dataset"),
    ]:
        with pytest.raises(InvalidInputError, match=said):
            read_table_rows(tmp_path / name)
    (tmp_path / "a.csv").touch()
    with pytest.raises(InvalidInputError, match=r"got 'a\.csv'"):
        read_table_rows(tmp_path / "a.csv")


# Neighbours


def test_neighbours_are_the_most_similar_rows(monkeypatch):
    monkeypatch.setattr("serab_byols.viz.nearest_neighbours._BLOCK_VALUES", 70)  # several blocks
    vectors = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    rows, similarities = nearest_neighbours(TableRows({}, vectors), 4)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = unit @ unit.T
    np.fill_diagonal(expected, -2)
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :4])
    np.testing.assert_allclose(similarities, -np.sort(-expected, axis=1)[:, :4], rtol=1e-5)


def test_segments_that_overlap_are_no_neighbours():
    files = np.array(["a", "b", "a", "a", "b"], dtype=object)
    columns = {
        "file": files,
        "start": np.array([0.0, 0, 1, 0.5, 0]),
        "end": np.array([1.0, np.nan, 2, 1.5, 1]),
    }
    rows, _ = nearest_neighbours(TableRows(columns, np.eye(5, 3, dtype=np.float32) + 0.1), 4)
    found = [set(row[row >= 0].tolist()) for row in rows]
    assert found == [{1, 2, 4}, {0, 2, 3}, {0, 1, 4}, {1, 4}, {0, 2, 3}]  # 1 lasts to the end of b
    assert (rows[3, 2:] == -1).all()
    assert nearest_neighbours(TableRows({}, np.ones((1, 3), np.float32)), 10)[0].tolist() == [[-1] * 10]


# The page


def test_the_page_holds_the_table(tmp_path):
    table = some_table(
        ["c/a.wav", "c/b.wav", "c/a.wav"], start=[0.0, 0.0, 1.0], end=[1.0, 1.0, 2.0], label=["x", "y", "x"]
    )
    (tmp_path / "pages").mkdir()
    path = write_explorer(table, tmp_path / "pages" / "p.html", colour="label", audio_root=tmp_path)
    page = Parsed(path.read_text(encoding="utf-8"))
    content = page.content
    assert content["files"]["names"] == ["c/a.wav", "c/b.wav"]
    assert content["files"]["urls"] == ["../c/a.wav", "../c/b.wav"]
    assert numbers(content["files"]["codes"], "<i4").tolist() == [0, 1, 0]
    assert numbers(content["neighbours"], "<i4").reshape(3, content["k"])[:, 2:].tolist() == [[-1] * 8] * 3
    assert [column["name"] for column in content["columns"]] == ["file", "start", "end", "label"]
    label = content["columns"][content["colour"]]
    assert (label["name"], label["values"]) == ("label", ["x", "y"])
    assert [style[2] for style in label["styles"]] == ["x", "y"]
    assert content["columns"][1]["label"] == "start (s)"
    points = np.stack([numbers(content["x"], "<f4"), numbers(content["y"], "<f4")], axis=1)
    assert np.isfinite(points).all()
    assert points.std() > 0.1
    assert re.fullmatch(r"component 1 \(\d+% of variance\)", content["axes"][0])
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {"map", "colour", "search", "audio", "neighbours", "export", "data"} <= ids


def test_nothing_is_fetched_by_the_page(tmp_path):
    page = Parsed(write_explorer(some_table(["a.wav"]), tmp_path / "p.html").read_text(encoding="utf-8"))
    assert "plotly.js v" in page.scripts[1]
    fetching = [(tag, attributes) for tag, attributes in page.elements if {"src", "href"} & set(attributes)]
    assert fetching == [("link", {"rel": "icon", "href": "data:,"})]


def test_the_policy_allows_the_scripts_of_the_page_and_clips(tmp_path):
    page = Parsed(write_explorer(some_table(["a.wav"]), tmp_path / "p.html").read_text(encoding="utf-8"))
    policy = page.policy
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.scripts[1:]]
    assert policy["script-src"].split() == ["'unsafe-eval'", *(f"'sha256-{digest}'" for digest in digests)]
    assert policy["default-src"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert policy["media-src"] == "'self' file:"
    assert policy["img-src"] == "data: blob:"
    assert not re.search(r"https?:|\*", " ".join(policy.values()))


def test_hostile_names_stay_text(tmp_path):
    table = some_table(list(HOSTILE), **{"</script><b>": list(HOSTILE)})
    path = write_explorer(table, tmp_path / "<b>&p.html", audio_root=tmp_path)
    text = path.read_text(encoding="utf-8")
    page = Parsed(text)
    assert len(page.scripts) == text.count("<script") - page.scripts[1].count("<script") == 3
    assert not [tag for tag, _ in page.elements if tag in ("img", "b")]
    assert page.content["files"]["names"] == list(HOSTILE)
    assert page.content["columns"][1]["values"] == list(HOSTILE)
    assert "<" not in page.scripts[0]
    assert page.content["files"]["urls"][0] == "%3C/script%3E%3Cscript%3Ealert%281%29%3C/script%3E.wav"
    assert page.content["files"]["urls"][3] == "%3C%21--%23%3F%2541%20%26amp%3B%20.wav"


def test_gaps_of_the_page_are_not_filled_twice():
    content = {"columns": [], "files": {}, "x": "{plotly}{script}{policy}"}
    page = Parsed(page_html(content, [], title="{data}{plotly}"))
    assert page.content["x"] == "{plotly}{script}{policy}"


def test_urls_of_clips(tmp_path):
    names = ["a b.wav", "/abs/ü.wav", "s3://bucket/x.wav", "", "file:///y.wav", "nul\0.wav"]
    files = clip_files(TableRows({"file": np.array(names, dtype=object)}, np.eye(6)), tmp_path)
    assert files.paths[:5] == [tmp_path / "a b.wav", Path("/abs/ü.wav"), None, None, Path("/y.wav")]
    assert page_urls(files.paths[:3], tmp_path) == [
        "a%20b.wav",
        "../" * (len(tmp_path.parts) - 1) + "abs/%C3%BC.wav",
        None,
    ]
    assert files.n_missing == 6
    assert audio_urls(files.paths)[:3] == ["audio/0", "audio/1", None]


def test_what_a_page_refuses(tmp_path):
    table = some_table(["a.wav"])
    with pytest.raises(InvalidInputError, match="no column 'x'; it has 'file'"):
        write_explorer(table, tmp_path / "p.html", colour="x")
    with pytest.raises(InvalidInputError, match="no column 'file'"):
        write_explorer(table.drop(columns="file"), tmp_path / "p.html")
    with pytest.raises(InvalidInputError, match="does not exist"):
        write_explorer(table, tmp_path / "none" / "p.html")
    many = TableRows({"file": np.full(MOST_ROWS + 1, "a", dtype=object)}, np.ones((MOST_ROWS + 1, 1)))
    with pytest.raises(InvalidInputError, match="100001 rows and a page at most 100000"):
        write_explorer(many, tmp_path / "p.html")
    clip = write(tmp_path / "a.wav", voice(0, 0.1))
    with pytest.raises(InvalidInputError, match="is also an input"):
        write_explorer(table, clip, audio_root=tmp_path)
    assert sorted(tmp_path.iterdir()) == [clip]


def test_without_plotly_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(MissingExtraError, match=r"serab-byols\[explore\]"):
        write_explorer(some_table(["a.wav"]), tmp_path / "p.html")


# The command


def test_the_command_writes_a_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = some_table([f"{i}.wav" for i in range(20)], label=["x", "y"] * 10)
    write(tmp_path / "0.wav", voice(0, 0.1))
    save(table, Path("t.npz"))
    assert main(["explore", "t.npz"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "t.html\n"
    assert "19 of 20 files are not where the table says" in printed.err
    assert main(["explore", "t.npz"]) == 2
    assert "t.html exists: name the page with -o" in capsys.readouterr().err
    assert main(["explore", "t.npz", "-o", "t.html", "--sample", "5", "--method", "pca"]) == 0
    sampled = Parsed(Path("t.html").read_text(encoding="utf-8")).content
    assert len(numbers(sampled["x"], "<f4")) == 5
    assert set(sampled["files"]["names"]) < set(table["file"])
    capsys.readouterr()
    for arguments, said in [
        (["-o", "t.npz"], "is also an input"),
        (["-o", "0.wav"], "is also an input"),
        (["-o", "p.html", "--colour", "x"], "no column 'x'"),
        (["-o", "p.html", "--sample", "0"], "--sample must be at least 1"),
    ]:
        assert main(["explore", "t.npz", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert not Path("p.html").exists()


def test_the_command_serves_until_interrupted(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(some_table(["a.wav", "b.wav", "c.wav"], label="x"), Path("t.npz"))
    answers = []

    def interrupted(self):
        server = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        server.start()
        answers.append(get(self, "")[0].status)
        self.stop()
        server.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(ExplorerServer, "serve", interrupted)
    assert main(["explore", "t.npz", "--serve"]) == 0
    assert answers == [200]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/\n", capsys.readouterr().out)
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


# The server


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    wav = write(folder / "a.wav", voice(0, 0.5))
    aiff = write(folder / "b.aiff", voice(1, 0.5, 8000), 8000)
    (folder / "secret.txt").write_text("secret")
    (folder / "broken.wav").write_bytes(b"RIFF")
    paths = [wav, aiff, folder / "secret.txt", folder / "gone.wav", None, folder / "broken.wav"]
    with ExplorerServer("<p>page</p>", paths) as server:
        thread = threading.Thread(target=server._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server, folder
        server.stop()
        thread.join()


def get(server, path, method="GET", root=None, **headers):
    """Answer and body of a request below the server's own path."""
    port, own_root = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/.+/)", server.url).groups()
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, (own_root if root is None else root) + path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_the_page_and_the_files_are_served(served):
    server, folder = served
    answer, body = get(server, "")
    assert (answer.status, body) == (200, b"<p>page</p>")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    answer, body = get(server, "audio/0")
    assert (answer.status, body) == (200, (folder / "a.wav").read_bytes())
    assert answer.headers["Content-Type"] == "audio/wav"
    answer, body = get(server, "audio/0", "HEAD")
    assert (answer.status, body) == (200, b"")
    assert int(answer.headers["Content-Length"]) == (folder / "a.wav").stat().st_size


@pytest.mark.parametrize("name", ["audio/1", "audio/1.wav"])
def test_formats_that_browsers_do_not_play_are_decoded(served, name):
    server, folder = served
    answer, body = get(server, name)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "audio/wav")
    samples, rate_hz = soundfile.read(io.BytesIO(body))
    expected, expected_hz = soundfile.read(folder / "b.aiff")
    assert rate_hz == expected_hz == 8000
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=100-", 100, None),
        ("bytes=-7", -7, None),
        ("bytes=5-99999999999", 5, None),
        ("bytes=-99999999", 0, None),
    ],
)
def test_ranges(served, asked, first, last):
    server, folder = served
    whole = (folder / "a.wav").read_bytes()
    expected = whole[first : None if last is None else last + 1]
    answer, body = get(server, "audio/0", Range=asked)
    assert (answer.status, body) == (206, expected)
    begin = first % len(whole)
    assert answer.headers["Content-Range"] == f"bytes {begin}-{begin + len(expected) - 1}/{len(whole)}"


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=9-5", "bytes=-0"])
def test_ranges_outside_of_the_file(served, asked):
    answer, body = get(served[0], "audio/0", Range=asked)
    assert (answer.status, body) == (416, b"")
    assert re.fullmatch(r"bytes \*/\d+", answer.headers["Content-Range"])


@pytest.mark.parametrize(
    "asked", ["bytes=-", "bytes=a-b", "seconds=0-1", "bytes=0-1,3-4", f"bytes=0-{'9' * 5000}"]
)
def test_ranges_that_are_none_are_ignored(served, asked):
    answer, body = get(served[0], "audio/0", Range=asked)
    assert answer.status == 200
    assert len(body) == int(answer.headers["Content-Length"])


@pytest.mark.parametrize(
    "path",
    [
        "audio/2",  # not audio
        "audio/2.wav",
        "audio/3",  # not there
        "audio/4",
        "audio/5.wav",  # cannot be decoded
        "audio/6",
        "audio/-1",
        "audio/99999999999999999999",
        "audio/0/../2",
        "audio/../../etc/passwd",
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "/etc/passwd",
        "audio/0?x",
        "audio//0",
        "audio/\xb2",
        "secret.txt",
        "audio/",
    ],
)
def test_nothing_else_is_served(served, path):
    server, _ = served
    port, root = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/.+/)", server.url).groups()
    import socket

    with socket.create_connection(("127.0.0.1", int(port)), timeout=30) as connection:  # as it is, unquoted
        request = f"GET {root}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode("latin-1"))
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.split()[1] == b"404"
    assert body == b""


def test_without_the_token_nothing_is_served(served):
    server, _ = served
    for root in ("/", "", "/x/", server.url[-4:], "/\xe9/"):
        if root.isascii():
            assert get(server, "audio/0", root=root or "/")[0].status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:80", 200),
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("evil.example:80", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("", 403),
    ],
)
def test_only_requests_to_this_machine_are_answered(served, host, status):
    for path in ("", "audio/0"):
        assert get(served[0], path, Host=host)[0].status == status


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 200), ("cross-site", 403), ("same-site", 403)]
)
def test_pages_of_other_sites_get_nothing(served, site, status):
    assert get(served[0], "audio/0", Sec_Fetch_Site=site)[0].status == status


def test_other_methods_are_refused(served):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert get(served[0], "", method)[0].status == 501


def test_decoded_files_are_few_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("serab_byols.viz.explorer_server._MOST_DECODED_FILES", 2)
    paths = [write(tmp_path / f"{i}.aiff", voice(i, 0.1)) for i in range(4)]
    with ExplorerServer("", paths) as server:
        folder = server._decoded._folder
        first = server._decoded.open(0, paths[0])
        for i in (1, 0, 2, 3):
            server._decoded.open(i, paths[i]).close()
        assert sorted(path.name for path in folder.iterdir()) == ["2.wav", "3.wav"]
        with first:
            assert first.read(4) == b"RIFF"  # whoever has it open can go on
    assert not folder.exists()


def test_the_port_is_loopback_alone(served):
    assert served[0]._server.server_address[0] == "127.0.0.1"
