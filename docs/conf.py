"""Sphinx's settings: the pages of docs/, and the Markdown files elsewhere that they link to, as a site.

The source folder is the repository (``sphinx-build -c docs . site``), so that a page's relative links work in
the site as they do where the repository is read.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_extensions")]

from serab_byols import __version__  # noqa: E402  # of this checkout, whatever is installed

FOLDERS = ("docs", "checkpoints")

project = "serab_byols"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_line", "docstrings"]

root_doc = "docs/index"
include_patterns = ["docs/**", "checkpoints/*.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in FOLDERS]
highlight_language = "text"  # of blocks that are only indented: commands, output, files
myst_heading_anchors = 4
smartquotes_action = "D"  # dashes alone

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Shape"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"serab_byols {__version__}"
html_copy_source = False
html_show_copyright = False
html_show_search_summary = False  # browsers do not fetch the pages for it where the site is a folder
html_domain_indices = False


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("build-finished", _write_start_page)


def _write_start_page(app: Any, exception: Exception | None) -> None:
    """``index.html`` at the top of the site, which leads to the start page."""
    if exception is None and app.builder.format == "html":
        target = f"{root_doc}.html"
        page = (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{project}</title>\n'
            f'<meta http-equiv="refresh" content="0; url={target}">\n</head>\n'
            f'<body><a href="{target}">{project}</a></body>\n</html>\n'
        )
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")
