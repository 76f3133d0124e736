"""The wheel and the sdist, built from a copy of the tree and used where the tree is out of sight."""

from __future__ import annotations

import email.message
import email.parser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

import serab_byols
from serab_byols.checkpoint import DEFAULT_CHECKPOINT

pytest.importorskip("build")
pytest.importorskip("setuptools", "77")

ROOT = Path(__file__).resolve().parents[1]
VERSION = serab_byols.__version__
NOT_COPIED = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "demo-output", "parity", "golden"
)


class Built(NamedTuple):
    tree: Path
    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Standard output; what went wrong is in the error."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    offline = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, **offline, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    tmp = tmp_path_factory.mktemp("packaging")
    tree = tmp / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
    if not (tree / "checkpoints" / DEFAULT_CHECKPOINT).exists():
        (tree / "checkpoints").mkdir(exist_ok=True)
        serab_byols.save_checkpoint(serab_byols.create_model(d=8), tree / "checkpoints" / DEFAULT_CHECKPOINT)
    (tree / "checkpoints" / "notes.txt").write_text("not for the wheel")
    # By default the sdist first, then a wheel of what the sdist holds.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp / "a", tree, cwd=tmp)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp / "b", tree, cwd=tmp)
    (wheel,) = (tmp / "b").glob("*.whl")
    (wheel_of_sdist,) = (tmp / "a").glob("*.whl")
    (sdist,) = (tmp / "a").glob("*.tar.gz")
    return Built(tree, wheel, sdist, wheel_of_sdist)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile")
    run(*pip, "--target", target, built.wheel, cwd=target.parent)
    return target


@pytest.fixture(scope="module")
def metadata(built: Built) -> email.message.Message:
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.BytesParser().parsebytes(wheel.read(name))


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def modules(tree: Path) -> set[str]:
    return {path.relative_to(tree).as_posix() for path in (tree / "serab_byols").rglob("*.py")}


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    held = names(built.wheel)
    assert {name.partition("/")[0] for name in held} == {
        "serab_byols",
        f"serab_byols-{VERSION}.dist-info",
    }
    assert {name for name in held if name.endswith(".py")} == modules(built.tree)
    assert "serab_byols/py.typed" in held
    assert f"serab_byols-{VERSION}.dist-info/licenses/LICENSE" in held


def test_the_wheel_holds_every_checkpoint_whole(built: Built) -> None:
    expected = {path.name: path.read_bytes() for path in (built.tree / "checkpoints").glob("*.safetensors")}
    assert DEFAULT_CHECKPOINT in expected
    with zipfile.ZipFile(built.wheel) as wheel:
        held = {
            Path(name).name: wheel.read(name)
            for name in wheel.namelist()
            if name.startswith("serab_byols/checkpoints/")
        }
    assert held == expected


def test_the_wheel_is_for_every_platform(built: Built) -> None:
    assert built.wheel.name == f"serab_byols-{VERSION}-py3-none-any.whl"


def test_the_sdist_holds_what_the_wheel_is_built_from(built: Built) -> None:
    assert built.wheel_of_sdist.name == built.wheel.name
    with zipfile.ZipFile(built.wheel) as one, zipfile.ZipFile(built.wheel_of_sdist) as other:
        assert {info.filename: info.CRC for info in one.infolist()} == {
            info.filename: info.CRC for info in other.infolist()
        }
    with tarfile.open(built.sdist) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= held
    assert f"checkpoints/{DEFAULT_CHECKPOINT}" in held
    assert Path(__file__).relative_to(ROOT).as_posix() in held
    assert not [name for name in held if name.endswith(".pyc") or name.startswith((".", "build/"))]


def test_the_metadata(metadata: email.message.Message) -> None:
    assert metadata["Name"] == "serab-byols"
    assert metadata["Version"] == VERSION
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert {"parquet", "nnaudio", "torchaudio"} <= set(metadata.get_all("Provides-Extra"))


def test_extras_stay_extra(metadata: email.message.Message) -> None:
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    core = {requirement.name for requirement in requirements if requirement.marker is None}
    assert core == {"einops", "numpy", "pooch", "safetensors", "soundfile", "soxr", "torch", "tqdm"}
    for extra, package in [("parquet", "pyarrow"), ("nnaudio", "nnAudio"), ("torchaudio", "torchaudio")]:
        wanted = {
            requirement.name
            for requirement in requirements
            if requirement.marker is not None and requirement.marker.evaluate({"extra": extra})
        }
        assert package in wanted


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


def test_the_installed_wheel_works_without_the_tree(installed: Path, tmp_path: Path) -> None:
    files = run(sys.executable, "-c", CHECK, cwd=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert len(files) > 10
    assert all(Path(file).is_relative_to(installed) for file in files)


def test_the_installed_commands(installed: Path, built: Built, tmp_path: Path) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        entry_points = wheel.read(f"serab_byols-{VERSION}.dist-info/entry_points.txt").decode()
    assert re.search("^serab-byols = serab_byols.cli:main$", entry_points, re.MULTILINE)
    assert list((installed / "bin").glob("serab-byols*"))
    command = (sys.executable, "-m", "serab_byols", "--version")
    told = run(*command, cwd=tmp_path, PYTHONPATH=str(installed))
    assert told == f"serab-byols {VERSION}\n"


def test_without_the_wheel_the_same_check_fails(tmp_path: Path) -> None:
    """The check above runs against the wheel: where nothing is installed there is nothing to import."""
    with pytest.raises(AssertionError, match="No module named 'serab_byols'"):
        run(sys.executable, "-S", "-c", "import serab_byols", cwd=tmp_path)
