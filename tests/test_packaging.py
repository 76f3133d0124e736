"""The wheel and the sdist, built from a copy of the tree and used where the tree is out of sight."""

from __future__ import annotations

import email.parser
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

import serab_byols
from serab_byols.checkpoint import DEFAULT_WEIGHTS

pytest.importorskip("build")
pytest.importorskip("setuptools", "77")

ROOT = Path(__file__).resolve().parents[1]
VERSION = serab_byols.__version__
NOT_COPIED = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "demo-output", "parity", "golden"
)


COMMIT_DATE = (2024, 2, 29, 12, 30, 58)


class Built(NamedTuple):
    wheel: Path
    files: dict[str, bytes]  # of the wheel
    sdist: Path
    wheel_of_sdist: Path
    sdist_again: Path  # built later, from another folder, with other dates and modes
    modules: set[str]  # of the tree, which is gone
    checkpoints: dict[str, bytes]  # of the tree

    def dist_info(self, name: str) -> str:
        return self.files[f"serab_byols-{VERSION}.dist-info/{name}"].decode()


def run(*command: object, cwd: Path, umask: int = 0o022, **environment: str) -> str:
    """Standard output; what went wrong is in the error."""
    ours = ("PYTHON", "PIP_", "SOURCE_DATE_EPOCH", "GIT_")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    command = tuple(map(str, command))
    result = subprocess.run(
        command, cwd=cwd, env={**clean, **environment}, umask=umask, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def commit(tree: Path) -> None:
    """Make the tree a repository with one commit, of :data:`COMMIT_DATE`."""
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@localhost")
    date = "{}-{:02}-{:02}T{:02}:{:02}:{:02}+0000".format(*COMMIT_DATE)
    run(*git, "init", "--quiet", cwd=tree)
    run(*git, "add", "--all", cwd=tree)
    run(*git, "commit", "--quiet", "-m", "all", cwd=tree, GIT_COMMITTER_DATE=date)


def another_checkout(tree: Path, other: Path) -> Path:
    """The same commit with the dates and modes of files of another machine."""
    shutil.copytree(tree, other)
    for i, path in enumerate(sorted(other.rglob("*"))):
        os.utime(path, (1e9 + i, 1e9 + i))
        if path.is_file():
            path.chmod(0o600 if i % 2 else 0o775)
    return other


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    tmp = tmp_path_factory.mktemp("packaging")
    tree = tmp / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
    for encoder, name in DEFAULT_WEIGHTS.items():
        path = tree / "checkpoints" / f"{name}.safetensors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            serab_byols.save_checkpoint(serab_byols.create_model(encoder), path)
    (tree / "checkpoints" / "notes.txt").write_text("not for the wheel")
    (tree / "site").mkdir(exist_ok=True)
    (tree / "site" / "index.html").write_text("made by make docs, not for the sdist")
    commit(tree)
    other = another_checkout(tree, tmp / "elsewhere" / "a folder")
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir")
    # By default the sdist first, then a wheel of what the sdist holds.
    run(*build, tmp / "a", tree, cwd=tmp)
    run(*build, tmp / "b", "--sdist", "--wheel", other, cwd=tmp, umask=0o077, TZ="Asia/Tokyo")
    (wheel,) = (tmp / "b").glob("*.whl")
    (wheel_of_sdist,) = (tmp / "a").glob("*.whl")
    (sdist,) = (tmp / "a").glob("*.tar.gz")
    (sdist_again,) = (tmp / "b").glob("*.tar.gz")
    modules = {path.relative_to(tree).as_posix() for path in (tree / "serab_byols").rglob("*.py")}
    checkpoints = {path.name: path.read_bytes() for path in (tree / "checkpoints").glob("*.safetensors")}
    shutil.rmtree(tree)
    shutil.rmtree(other)
    return Built(wheel, files_of(wheel), sdist, wheel_of_sdist, sdist_again, modules, checkpoints)


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    assert {name for name in built.files if name.endswith(".py")} == built.modules
    assert {name.partition("/")[0] for name in built.files} == {
        "serab_byols",
        f"serab_byols-{VERSION}.dist-info",
    }
    assert {f"serab_byols/{name}" for name in ("py.typed", "viz/explorer.html", "viz/explorer.js")} <= set(
        built.files
    )
    assert built.dist_info("licenses/LICENSE")
    assert built.wheel.name == f"serab_byols-{VERSION}-py3-none-any.whl"  # for every platform


def test_the_wheel_holds_every_checkpoint_unchanged(built: Built) -> None:
    assert {f"{name}.safetensors" for name in DEFAULT_WEIGHTS.values()} <= set(built.checkpoints)
    folder = "serab_byols/checkpoints/"
    held = {Path(name).name: data for name, data in built.files.items() if name.startswith(folder)}
    assert held == built.checkpoints


def test_a_build_can_be_repeated(built: Built) -> None:
    """Bit for bit: in another folder, with other modes and dates of files, another umask, from the sdist."""
    assert built.wheel_of_sdist.read_bytes() == built.wheel.read_bytes()
    assert built.sdist_again.read_bytes() == built.sdist.read_bytes()
    with zipfile.ZipFile(built.wheel) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {COMMIT_DATE}
        modes = {entry.external_attr >> 16 for entry in archive.infolist() if "RECORD" not in entry.filename}
        assert modes == {stat.S_IFREG | 0o644}


def test_the_sdist_holds_what_the_wheel_is_built_from(built: Built) -> None:
    assert built.wheel_of_sdist.name == built.wheel.name
    assert files_of(built.wheel_of_sdist) == built.files
    with tarfile.open(built.sdist) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= held
    assert {f"checkpoints/{name}.safetensors" for name in DEFAULT_WEIGHTS.values()} <= set(held)
    assert Path(__file__).relative_to(ROOT).as_posix() in held
    assert not [name for name in held if name.endswith(".pyc") or name.startswith((".", "build/", "site/"))]


def test_the_metadata(built: Built) -> None:
    metadata = email.parser.Parser().parsestr(built.dist_info("METADATA"))
    expected = {
        "Name": "serab-byols",
        "Version": VERSION,
        "Requires-Python": ">=3.10",
        "License-Expression": "MIT",
        "Description-Content-Type": "text/markdown",
    }
    assert {key: metadata[key] for key in expected} == expected
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    core = {requirement.name for requirement in requirements if requirement.marker is None}
    assert core == {
        "einops",
        "filelock",
        "numpy",
        "pooch",
        "safetensors",
        "soundfile",
        "soxr",
        "torch",
        "tqdm",
    }
    for extra, package in [("parquet", "pyarrow"), ("nnaudio", "nnAudio"), ("torchaudio", "torchaudio")]:
        optional = [requirement for requirement in requirements if requirement.marker is not None]
        assert package in {need.name for need in optional if need.marker.evaluate({"extra": extra})}


CHECK = """
import sys, numpy, torch, serab_byols
model = serab_byols.create_model("default", d=8)
samples = numpy.sin(numpy.arange(8000, dtype=numpy.float32) / 9)
embedding = serab_byols.embed_audio(samples, 8000, model)
assert embedding.shape == (8,) and embedding.isfinite().all()
scenes = serab_byols.get_scene_embeddings(torch.from_numpy(samples)[None], model)
assert scenes.shape == (1, 8)
default = serab_byols.load_model()
assert default.embedding_size == default(torch.zeros(1, 16000)).shape[1]
for name, module in sys.modules.items():
    if name.partition(".")[0] == "serab_byols":
        print(module.__file__)
"""


def test_the_installed_wheel_works_without_the_tree(built: Built, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    pip = "pip install --quiet --no-index --no-deps --no-compile --disable-pip-version-check"
    run(sys.executable, "-m", *pip.split(), "--target", installed, built.wheel, cwd=tmp_path)
    files = run(sys.executable, "-c", CHECK, cwd=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert len(files) > 10
    assert all(Path(file).is_relative_to(installed) for file in files)

    assert re.search(r"^serab-byols = serab_byols\.__main__:main$", built.dist_info("entry_points.txt"), re.M)
    assert list((installed / "bin").glob("serab-byols*"))
    command = (sys.executable, "-m", "serab_byols", "--version")
    assert run(*command, cwd=tmp_path, PYTHONPATH=str(installed)) == f"serab-byols {VERSION}\n"


def test_without_the_wheel_the_same_check_fails(tmp_path: Path) -> None:
    """The check above runs against the wheel: where nothing is installed there is nothing to import."""
    with pytest.raises(AssertionError, match="No module named 'serab_byols'"):
        run(sys.executable, "-S", "-c", "import serab_byols", cwd=tmp_path)
