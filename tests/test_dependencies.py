"""What pyproject.toml asks for, what the constraints pin, and what docs/dependencies.md says of it agree."""

import re
import sys
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from parity_data import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
ROW = re.compile(
    r"^\| \[([^]]+)\]\(https://\S+\) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.M
)


NOT_ON_OLDEST = {"dev", "mteb"}
"""mteb wants newer versions of what it shares with us than our lower bounds."""
USED = sorted(EXTRAS.keys() - NOT_ON_OLDEST)


def declared():
    """Lower bounds by name: of the core, of every extra and of what builds the package."""
    core, build = PROJECT["project"]["dependencies"], PROJECT["build-system"]["requires"]
    bounds = {}
    for requirement in map(Requirement, chain(core, build, *EXTRAS.values())):
        if requirement.name != PROJECT["project"]["name"]:
            (bound,) = requirement.specifier
            assert bound.operator == ">=", requirement
            bounds.setdefault(canonicalize_name(requirement.name), set()).add(bound.version)
    return bounds


def pins(name):
    """Requirements in a constraints file by name; several where they differ between versions of Python."""
    pinned = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            pinned.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pinned


def rows():
    """Rows of the page by package, each as its cells after the name."""
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    return {canonicalize_name(name): cells for name, *cells in ROW.findall(page)}


def test_every_dependency_has_one_lower_bound():
    assert {name: bounds for name, bounds in declared().items() if len(bounds) != 1} == {}


def test_the_page_has_a_row_for_every_dependency_and_for_nothing_else():
    assert rows().keys() == declared().keys()


def test_every_row_says_why_what_it_weighs_its_licence_and_what_would_replace_it():
    for name, (_, why, size_mb, licence, replacement) in rows().items():
        assert len(why) > 15, name
        assert re.match(r"\d+(\.\d)?( \+ \d+(\.\d)?)?$", size_mb), name
        assert len(licence) >= 3, name
        assert len(replacement) > 5, name


def test_a_row_names_the_extra_that_asks_for_the_package():
    asking = {name: {extra for extra, texts in EXTRAS.items() if name in names(texts)} for name in declared()}
    for name in names(PROJECT["project"]["dependencies"]):
        asking[name].add("core")
    for name, (extra, *_) in rows().items():
        assert extra in asking[name], name


def names(texts):
    return {canonicalize_name(Requirement(text).name) for text in texts}


def test_the_oldest_versions_are_the_lower_bounds():
    """Of the core and the extras that ``make test-oldest`` installs."""
    pinned = pins("constraints-oldest.txt")
    needed = names(chain(PROJECT["project"]["dependencies"], *(EXTRAS[name] for name in USED)))
    assert needed - {PROJECT["project"]["name"]} <= pinned.keys()
    for name, (bound,) in declared().items():
        if name not in pinned:
            continue
        (requirement,) = pinned[name]
        (pin,) = requirement.specifier
        assert pin.operator == "==", name
        release = Version(bound).release
        # Not every bound is a release: of 1.2 the first is 1.2.1.
        assert Version(pin.version).release[: len(release)] == release, name


def test_the_oldest_versions_are_tested_with_every_extra():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"EXTRAS := .[{','.join(USED)}]" in makefile


def test_every_dependency_is_pinned_above_its_lower_bound():
    pinned = pins("constraints.txt")
    for name, (bound,) in declared().items():
        if name == "torchaudio":  # has no release for the CPU builds of torch that the tests run with
            continue
        for requirement in pinned[name]:
            (pin,) = requirement.specifier
            assert pin.operator == "==", name
            assert Version(pin.version) >= Version(bound), name
