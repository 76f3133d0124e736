"""The explorer: a corpus as one HTML file that works offline, with plotly.js in it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serab_byols.atomic_write import atomic_write, check_not_an_input
from serab_byols.errors import InvalidInputError, missing_extra
from serab_byols.paths import AnyPath, as_path
from serab_byols.viz.category_styles import COLOURS, categories, is_scale, style
from serab_byols.viz.clip_files import ClipFiles, clip_files, page_urls
from serab_byols.viz.embedding_plot import with_unit
from serab_byols.viz.nearest_neighbours import nearest_neighbours
from serab_byols.viz.projection import Projection, project
from serab_byols.viz.table_rows import TableRows, read_table_rows

if TYPE_CHECKING:
    from pandas import DataFrame

N_NEIGHBOURS = 10
MOST_ROWS = 100_000
"""Of a page: beyond, a browser needs seconds for each click, and neighbours minutes here."""

_BOUNDS = ("start", "end")
_NO_NUMBERS = np.empty(0, dtype=object)
_GAP = re.compile(r"\{(policy|title|data|plotly|script)\}")


def check_can_explore() -> None:
    """Check before the work that a page can be made.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    _plotly_js()


def write_explorer(
    table: DataFrame | TableRows | AnyPath,
    page: AnyPath,
    *,
    colour: str | None = None,
    audio_root: AnyPath = ".",
    method: str = "auto",
    seed: int = 0,
) -> Path:
    """Write a page that shows a map of a corpus, plays its clips and lists their nearest neighbours.

    Clips are not copied into the page: it plays them where they lie, by URLs relative to the page.

    Args:
        table: as for :func:`plot_embeddings`, with a column ``file``.
        page: path of the HTML file, which appears whole or not at all.
        colour: column that colours the points at first.
        audio_root: folder that relative names in ``file`` are relative to.
        method: ``"pca"``, ``"umap"``, or ``"auto"``: UMAP if it is installed.
        seed: of UMAP.

    Returns:
        The path of the page.

    Raises:
        InvalidInputError: the table cannot be read, has no such column or more than 100 000 rows, or the page
            would replace one of its files.
        MissingExtraError: plotly, pyarrow or UMAP is needed and not installed.

    Example:
        >>> table = pandas.DataFrame({"file": ["a.wav", "b.wav"], "embedding": [[1.0, 0.0], [0.0, 1.0]]})
        >>> serab_byols.viz.write_explorer(table, "page.html").name
        'page.html'
    """
    check_can_explore()
    path = as_path(page, "the page")
    read = read_table_rows(table)
    clips = clip_files(read, as_path(audio_root, "audio_root"))
    check_page(path, read, clips)
    content = explorer_content(read, clips, method=method, seed=seed)
    urls = page_urls(clips.paths, Path(os.path.abspath(path)).parent)
    write_page(path, page_html(content, urls, colour=colour, title=path.stem))
    return path


def check_page(path: Path, table: TableRows, clips: ClipFiles) -> None:
    """Refuse a page that would replace the table or one of its clips.

    Raises:
        InvalidInputError: it would, or its folder does not exist.
    """
    if not path.parent.is_dir():
        raise InvalidInputError(f"the page's folder {path.parent} does not exist")
    check_not_an_input([path], [*table.sources, *(clip for clip in clips.paths if clip is not None)])


def write_page(path: Path, text: str) -> None:
    """Write a page; it appears whole or not at all."""
    with atomic_write(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")


def explorer_content(
    table: TableRows, clips: ClipFiles, *, method: str = "auto", seed: int = 0
) -> dict[str, Any]:
    """What a page shows, JSON-serialisable; arrays are little-endian, in base64.

    Raises:
        InvalidInputError: too many rows, or an unknown method.
        MissingExtraError: UMAP is asked for and not installed.
    """
    if len(table) > MOST_ROWS:
        raise InvalidInputError(
            f"the table has {len(table)} rows and a page at most {MOST_ROWS}: take a random part of them "
            "(--sample), or embedding-atlas for all (docs/pictures.md)"
        )
    projection = project(table.embedding, method, seed=seed)
    neighbours, similarities = nearest_neighbours(table, N_NEIGHBOURS)
    return {
        **_points(projection),
        "k": N_NEIGHBOURS,
        "neighbours": _base64(neighbours, "<i4"),
        "similarities": _base64(similarities, "<f4"),
        "files": {"names": clips.names, "codes": _base64(np.array(clips.codes), "<i4")},
        "columns": [_column(name, values) for name, values in table.columns.items()],
        "hasSegments": all(
            table.columns.get(name, _NO_NUMBERS).dtype.kind in "iuf" for name in ("start", "end")
        ),
        "colours": COLOURS,
    }


def page_html(
    content: dict[str, Any],
    urls: Sequence[str | None],
    *,
    colour: str | None = None,
    title: str,
    served: bool = False,
) -> str:
    """The page as text.

    Args:
        content: from :func:`explorer_content`.
        urls: of the distinct files, relative to the page; None for files that are not on this machine.
        colour: column that colours the points at first; by default none.
        title: of the page.
        served: whether a server of ours, which decodes more formats than browsers, answers.

    Raises:
        InvalidInputError: there is no such column.
    """
    names = [column["name"] for column in content["columns"]]
    if colour is not None and colour not in names:
        raise InvalidInputError(f"the table has no column {colour!r}; it has {', '.join(map(repr, names))}")
    shown = {
        **content,
        "files": {**content["files"], "urls": list(urls)},
        "colour": -1 if colour is None else names.index(colour),
        "served": served,
    }
    plotly, script = _plotly_js(), _resource("explorer.js")
    parts = {
        "policy": content_security_policy([plotly, script], served=served),
        "title": html.escape(title),
        "data": script_json(shown),
        "plotly": plotly,
        "script": script,
    }
    return _GAP.sub(lambda gap: parts[gap[1]], _resource("explorer.html"))


def content_security_policy(scripts: Sequence[str], *, served: bool) -> str:
    """A policy that runs these scripts alone, and lets nothing be fetched but clips on this machine.

    plotly compiles its WebGL code with ``new Function`` and sets styles of elements.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = {
        "default-src": "'none'",
        "script-src": " ".join(["'unsafe-eval'", *(f"'sha256-{digest}'" for digest in hashes)]),
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "media-src": "'self'" if served else "'self' file:",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it is in, whatever text it holds."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _points(projection: Projection) -> dict[str, Any]:
    n_rows = len(projection.points)
    return {
        "x": _base64(projection.points[:, 0], "<f4"),
        "y": _base64(projection.points[:, 1], "<f4"),
        "axes": projection.labels,
        "pointSize": 9 if n_rows < 500 else 6 if n_rows < 5000 else 4,
    }


def _column(name: str, values: np.ndarray) -> dict[str, Any]:
    """A column: its values, and how it colours the points."""
    column: dict[str, Any] = {"name": name, "label": with_unit(name), "scale": is_scale(values)}
    if values.dtype.kind in "iuf":
        column["numbers"] = _base64(values, "<f8")
    else:
        number_of: dict[str, int] = {}
        codes = [number_of.setdefault(value, len(number_of)) for value in values]
        column |= {"values": list(number_of), "codes": _base64(np.array(codes), "<i4")}
    if not column["scale"]:
        given = categories(values)
        column["categories"] = _base64(given.codes, "<i4")
        column["styles"] = [(*style(code, given), text) for code, text in enumerate(given.names)]
    return column


def _base64(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _plotly_js() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise missing_extra("plotly", "explore", "the explorer") from error
    return get_plotlyjs().replace("\r\n", "\n")
