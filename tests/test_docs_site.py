"""The documentation's site, built once as ``make docs`` builds it."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import pytest
from headless_browser import browser
from parity_data import ROOT

import serab_byols
from serab_byols import cli

REASON = "builds with the extra docs"
for package in ("furo", "huggingface_hub", "myst_parser", "sklearn", "sphinx"):
    pytest.importorskip(package, reason=REASON)

PAGES = sorted(path for folder in (ROOT, ROOT / "docs", ROOT / "checkpoints") for path in folder.glob("*.md"))
ROOMS = (
    "serab_byols",
    "serab_byols.checkpoint",
    "serab_byols.corpus",
    "serab_byols.corpus.dataset",
    "serab_byols.pretrain",
    "serab_byols.probe",
    "serab_byols.viz",
)
"""Whose ``__all__`` is public."""


class PageReader(HTMLParser):
    """What a page links to, what it loads, and where it can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self._is_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "meta" and values.get("http-equiv", "").lower() == "refresh":
            self.links.append(values["content"].partition("url=")[2])
        elif tag == "link" and values.get("rel") in ("index", "search", "next", "prev", "canonical"):
            self.links.append(values["href"])
        elif tag == "link":
            self.loaded.append(values["href"])
        self.loaded += [values[name] for name in ("src", "srcset", "poster", "data") if name in values]
        self.loaded += loaded_by_css(values.get("style", ""))
        self._is_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self._is_style:
            self.loaded += loaded_by_css(data)


def loaded_by_css(text: str) -> list[str]:
    return re.findall(r"(?:url\(|@import(?!\s+url))\s*[\"']?([^\"')\s;]+)", text)


def is_elsewhere(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def broken_links(texts: Mapping[str, str], files: set[str]) -> list[tuple[str, str]]:
    """Pages and their links, to pages, files and places in pages, that lead nowhere."""
    pages = {name: PageReader(text) for name, text in texts.items()}
    broken = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = name
            if parts.path:
                folder = PurePosixPath("/", name).parent
                resolved = folder.joinpath(unquote(parts.path))
                target = str(Path(str(resolved)).resolve()).lstrip("/")
            is_there = target in files
            if is_there and parts.fragment and target in pages:
                is_there = unquote(parts.fragment) in pages[target].ids
            if not is_there:
                broken.append((name, link))
    return broken


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site."""
    folder = tmp_path_factory.mktemp("docs")
    recipe = re.search(
        r"^\t\$\(BIN\)/python (-m sphinx .*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE
    )
    assert recipe is not None
    places = {"docs": ROOT / "docs", ".": ROOT}
    places |= {".venv/.doctrees": folder / "doctrees", "site": folder / "site"}
    arguments = [str(places.get(word, word)) for word in shlex.split(recipe[1])]
    assert str(folder / "site") in arguments
    assert "--fail-on-warning" in arguments
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, str]:
    """The site's pages, by their names in it."""
    found = {
        path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")
    }
    assert "docs/index.html" in found
    return found


def test_every_page_is_in_the_site(pages):
    expected = {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in PAGES} - {"README.html"}
    assert expected <= pages.keys()


def test_every_link_leads_somewhere(site, pages):
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert broken_links(pages, files) == []


def test_a_broken_link_is_seen():
    texts = {
        "a/one.html": '<p id="here"><a href="../two.html#there">x</a><a href="#here">y</a>'
        '<a href="#no">z</a>',
        "two.html": '<p id="there"><a href="three.html">x</a><a href="a/one.html#gone">y</a>'
        '<a href="https://example.org/x">z</a>',
    }
    assert broken_links(texts, set(texts)) == [
        ("a/one.html", "#no"),
        ("two.html", "three.html"),
        ("two.html", "a/one.html#gone"),
    ]


def test_nothing_is_loaded_from_elsewhere(site, pages):
    loaded = {(name, address) for name, text in pages.items() for address in PageReader(text).loaded}
    for path in site.rglob("*.css"):
        sheet = path.read_text(encoding="utf-8")
        loaded |= {(path.name, address) for address in loaded_by_css(sheet)}
    assert len({address for _, address in loaded}) > 5
    assert {(name, address) for name, address in loaded if is_elsewhere(address)} == set()


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://example.org/x.js"></script>',
        '<link rel="stylesheet" href="//example.org/x.css">',
        '<img src="http://example.org/x.png">',
        "<style>@import url('https://example.org/x.css');</style>",
        '<p style="background: url(https://example.org/x.png)">',
    ],
)
def test_what_is_loaded_from_elsewhere_is_seen(text):
    assert [address for address in PageReader(text).loaded if is_elsewhere(address)]


def test_a_browser_asks_for_files_of_the_site_alone_and_search_finds(site):
    with browser() as new_page:
        page = new_page()
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        page.send("Page.navigate", url=(site / "index.html").as_uri())
        page.wait_for("location.pathname.endsWith('/docs/index.html') && document.readyState === 'complete'")
        page.send("Page.navigate", url=f"{(site / 'search.html').as_uri()}?q=telephone")
        page.wait_for("document.querySelectorAll('#search-results li').length > 0")
        found = page.evaluate("document.querySelector('#search-results').innerText")
        assert "Frequently asked questions" in found
        assert len(page.requests) > 5
        assert [url for url in page.requests if not url.startswith((f"{site.as_uri()}/", "data:"))] == []
        assert page.messages == []


# --- the reference ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documented(site: Path) -> dict[str, str]:
    """Kinds, such as ``py:function``, of what the site has an entry for, by name."""
    data = (site / "objects.inv").read_bytes().split(b"\n", 4)
    lines = zlib.decompress(data[4]).decode().splitlines()
    return dict(re.match(r"(.+?) (\w+:\w+) ", line).groups() for line in lines)


MISSING = object()


def object_of(name: str) -> object:
    """What a dotted name means, after the longest part of it that is a module."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            found = getattr(found, part, MISSING)
        return found
    raise AssertionError(name)


def names_of_pages() -> set[str]:
    """What the pages import from modules of the library."""
    names = set()
    for path in PAGES:
        for module, imported in re.findall(
            r"from (serab_byols[\w.]*) import \(?([\w, \n]+)", path.read_text(encoding="utf-8")
        ):
            first_line = imported.strip().splitlines()[0]
            names |= {f"{module}.{name.strip()}" for name in first_line.split(",")}
    return names


def test_every_public_name_is_in_the_reference(documented):
    entries = {name for name, kind in documented.items() if kind.startswith("py:") and kind != "py:module"}
    objects = {id(object_of(name)) for name in entries if documented[name] != "py:data"}
    assert {name for name in entries if object_of(name) is MISSING} == set()  # written by hand, and gone
    public = names_of_pages()
    for room in ROOMS:
        public |= {f"{room}.{name}" for name in importlib.import_module(room).__all__}
    assert {"serab_byols.load_model", "serab_byols.integrations.pandas.to_frame"} <= public
    assert {name for name in public - entries if id(object_of(name)) not in objects} == set()


def test_every_error_is_in_the_reference(documented):
    errors = importlib.import_module("serab_byols.errors")
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    entries = {name.rpartition(".")[2] for name, kind in documented.items() if kind == "py:exception"}
    assert classes - entries == set()
    assert "MissingExtraError" in classes


# --- the command line ------------------------------------------------------------------------------


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_command_and_option_is_on_the_page_of_commands(pages, capsys):
    page = PageReader(pages["docs/reference/command-line.html"])
    commands = list(cli.COMMANDS)
    n_options = 0
    for command in commands:
        text = help_of(command, capsys)
        listed = re.search(r"^  (?:COMMAND|WHAT)\n((?:    .*\n)+)", text, re.MULTILINE)
        if listed:
            commands += [f"{command} {name}" for name in re.findall(r"^    (\S+)", listed[1], re.MULTILINE)]
        anchor = f"serab-byols {command}".replace(" ", "-")
        assert anchor in page.ids
        options = set(re.findall(r"^  (?:-\w, )?--([\w-]+)", text, re.MULTILINE)) - {"help"}
        assert {name for name in options if f"cmdoption-{anchor}-{name}" not in page.ids} == set()
        n_options += len(options)
    assert {"hear evaluate", "plot timestamps"} <= set(commands)
    assert n_options > 100


# --- the pages as they are read without the site ---------------------------------------------------


def heading_anchors(text: str) -> set[str]:
    """As on forges: lower case, without punctuation, spaces as hyphens."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_to_headings_work_without_the_site():
    missing = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", text):
            other = (path.parent / target) if target else path
            if anchor not in heading_anchors(other.read_text(encoding="utf-8")):
                missing.append((path.name, f"{target}#{anchor}"))
    assert missing == []
    assert heading_anchors("### `dense=True`\n```\n# no\n```\n## a, b") == {"densetrue", "a-b"}


def test_the_version_is_that_of_the_library(pages):
    assert f"serab_byols {serab_byols.__version__}" in pages["docs/index.html"]
