"""The structure that CONTRIBUTING.md draws: imports go one way, and the top of the package stays small."""

import ast
import re
from pathlib import Path

import pytest

import serab_byols

PACKAGE = Path(serab_byols.__file__).parent
LAYERS = (
    ("errors", "_version"),
    ("atomic_write", "display", "frontend", "normalization", "paths"),
    ("encoders",),
    ("model",),
    ("inference",),
    ("hear", "checkpoint"),
    ("corpus",),
    ("probe", "pretrain", "integrations"),
    ("hear_benchmark", "viz"),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
"""From the bottom up. A module imports its own room and lower layers; rooms of a layer, not each other."""

LEVEL = {room: level for level, layer in enumerate(LAYERS) for room in layer}
MOST_TOP_MODULES = 10


def room(module: str) -> str:
    """``serab_byols.corpus.tables`` is in the room ``corpus``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(source: str, known: set[str]) -> set[str]:
    """Modules of the package that the source imports, lazily too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "serab_byols"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def upward(module: str, source: str) -> list[str]:
    """Imports of a higher layer, or of another room of the same one."""
    here = room(module)
    return [
        there
        for there in sorted(imports(source, set(SOURCES)))
        if LEVEL[room(there)] > LEVEL[here] or (LEVEL[room(there)] == LEVEL[here] and room(there) != here)
    ]


@pytest.mark.parametrize("module", SOURCES)
def test_imports_go_down(module):
    assert upward(module, SOURCES[module]) == []


def test_an_import_that_goes_up_is_seen():
    assert upward("serab_byols.frontend", "from serab_byols.model import ByolsModel") == ["serab_byols.model"]
    assert upward("serab_byols.probe.x", "def f():\n    from serab_byols.pretrain import pretrain") == [
        "serab_byols.pretrain"
    ]
    assert upward("serab_byols.model", "import serab_byols.errors, torch") == []


def test_no_module_is_imported_by_what_it_imports():
    graph = {module: imports(source, set(SOURCES)) for module, source in SOURCES.items()}
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path, module))}"
        if module not in finished:
            for there in graph.get(module, ()):
                visit(there, (*path, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


def test_the_top_of_the_package_stays_small():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_TOP_MODULES


def test_no_two_modules_share_a_name():
    """Except for an encoder and its runner, and a command and what it is a command of."""
    names = [Path(module.replace(".", "/")).name for module in SOURCES if "." in module]
    doubled = {name for name in names if names.count(name) > 1}
    assert doubled <= {"audiontt", "resnetish", "clstm", "cvt", "probe", "pretrain", "hear", "pca"}


def test_contributing_names_every_room():
    layout = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"^ {6}(\w+)(?:/|\.py)", layout, flags=re.MULTILINE))
    rooms = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - {"__init__", "__main__", "_version"} == drawn - {"__init__"}
