"""Code blocks of the documentation, run as a reader would: in order, in one folder, in one Python session."""

from __future__ import annotations

import re
import shlex
from typing import Any

from parity_data import ROOT

from serab_byols.cli import main

BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = ("make ", "pip install ", "hear-validator ", "python -m heareval")
"""Commands of other programs; the demo and the tests are those commands themselves."""


def blocks(page: str = "README.md") -> list[tuple[str, str]]:
    """Language and code of a page's blocks."""
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def run_page(page: str, session: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run all blocks, and return the names that they define."""
    session = {} if session is None else session
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, page, "exec"), session)
            continue
        for line in code.replace("\\\n", " ").splitlines():
            if not line.startswith(ELSEWHERE):
                program, *arguments = shlex.split(line, comments=True)
                assert program == "serab-byols"
                assert main(arguments) == 0, line
    return session
