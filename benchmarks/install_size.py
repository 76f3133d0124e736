"""How much an installed package and everything that it brings take on the disk, in this environment.

Imports nothing but Python's own and ``packaging``: it also runs where neither torch nor this library is.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAVY = "torch"


class InstallSize(NamedTuple):
    """Of packages, in bytes, without bytecode.

    Attributes:
        total: with everything that it requires.
        without_torch: less torch and what torch requires.
        missing: required packages that are not installed here, and therefore not counted.
    """

    total: int
    without_torch: int
    missing: list[str]


def install_size(packages: Sequence[str], editable_data: Iterable[Path] = ()) -> InstallSize:
    """The size of packages with their requirements, extras left out.

    Args:
        packages: names of distributions.
        editable_data: files that a wheel of the first would contain beside its modules; counted where it is
            installed in place, since no list of files has them then.
    """
    found = installed()
    needed, missing = requirements(packages, found)
    of_torch = requirements([HEAVY], found)[0] if HEAVY in needed else set()
    sizes = {name: _size(found[name]) for name in needed}
    first = canonicalize_name(packages[0])
    if _is_editable(found[first]):
        sizes[first] += sum(path.stat().st_size for path in set(editable_data))
    total = sum(sizes.values())
    return InstallSize(total, total - sum(sizes[name] for name in of_torch), sorted(missing))


def installed() -> dict[str, Distribution]:
    """The distributions of this environment by name; the first one on the path wins, as in an import."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        found.setdefault(canonicalize_name(distribution.metadata["Name"]), distribution)
    return found


def requirements(packages: Sequence[str], found: Mapping[str, Distribution]) -> tuple[set[str], set[str]]:
    """The packages and all that they require: those that are installed, and those that are not."""
    needed: set[str] = set()
    missing: set[str] = set()
    waiting: list[str] = [canonicalize_name(package) for package in packages]
    while waiting:
        name = waiting.pop()
        if name in needed or name in missing:
            continue
        if name not in found:
            missing.add(name)
            continue
        needed.add(name)
        waiting += [
            canonicalize_name(requirement.name)
            for requirement in map(Requirement, found[name].requires or ())
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return needed, missing


def _size(distribution: Distribution) -> int:
    paths = {Path(str(distribution.locate_file(file))) for file in distribution.files or ()}
    if _is_editable(distribution):
        paths |= _module_files(distribution)
    return sum(path.stat().st_size for path in paths if path.suffix != ".pyc" and path.is_file())


def _is_editable(distribution: Distribution) -> bool:
    """Whether it is installed in place: its list of files has then none of its modules."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def _module_files(distribution: Distribution) -> set[Path]:
    paths: set[Path] = set()
    for name in (distribution.read_text("top_level.txt") or "").split():
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            paths |= {path for path in Path(folder).rglob("*") if path.is_file()}
    return paths
