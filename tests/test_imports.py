"""What importing the package loads: nothing optional, nothing that makes it slow."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Collection
from importlib.metadata import distributions

import pytest

OPTIONAL = frozenset(
    {"torchaudio", "nnAudio", "scipy", "pandas", "pyarrow", "sklearn", "librosa", "ray", "onnx"}
    | {"av", "onnxruntime", "matplotlib", "seaborn", "plotly", "bokeh", "IPython", "huggingface_hub"}
)
ONLY_TO_DOWNLOAD = frozenset({"pooch", "requests"})
CORE = frozenset(
    {"einops", "filelock", "numpy", "safetensors", "soundfile", "soxr", "torch", "tqdm"}
    # What these bring along.
    | {"cffi", "typing-extensions"}
)
SLOW_PARTS_OF_TORCH = ("torch._dynamo", "torch._inductor", "torch.onnx", "torch.utils.tensorboard")
EMBED = (
    "import torch, serab_byols, serab_byols.cli, serab_byols.probe; model = serab_byols.load_model(); "
    "serab_byols.get_scene_embeddings(torch.zeros(1, 4000), model); "
    "serab_byols.get_timestamp_embeddings(torch.zeros(1, 4000), model); "
    "serab_byols.embed_audio(torch.zeros(4000), 8000, model)"
)


@functools.cache
def modules_added(code: str, after: str = "pass") -> frozenset[str]:
    """Modules that ``code`` loads in a fresh interpreter that has already run ``after``."""
    script = f"import sys, json; {after}; old = set(sys.modules); {code}; new = set(sys.modules) - old"
    result = subprocess.run(
        [sys.executable, "-c", f"{script}; print(json.dumps(list(new)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(json.loads(result.stdout))


def top_level(modules: Collection[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def packages_by_module() -> dict[str, set[str]]:
    """Installed packages by the names that they are imported by, from their lists of files."""
    packages: dict[str, set[str]] = {}
    for distribution in distributions():
        for file in distribution.files or ():
            name = file.parts[0].partition(".")[0]
            packages.setdefault(name, set()).add(distribution.name.lower().replace("_", "-"))
    return packages


def test_nothing_optional_is_imported_to_embed() -> None:
    loaded = modules_added(EMBED)
    assert {"serab_byols.frontend", "torch"} < loaded
    assert not top_level(loaded) & (OPTIONAL | ONLY_TO_DOWNLOAD)


def test_an_optional_import_would_be_seen() -> None:
    pytest.importorskip("pandas")
    assert "pandas" in top_level(modules_added("import pandas")) & OPTIONAL


def test_only_declared_packages_come_on_top_of_torch() -> None:
    added = modules_added(
        "import serab_byols; serab_byols.load_model; serab_byols.embed_file", after="import torch"
    )
    installed = packages_by_module()
    packages = set().union(*(installed.get(name, set()) for name in top_level(added)))
    assert {"einops", "safetensors", "soundfile"} < packages
    assert packages - {"serab-byols"} <= CORE
    assert not [module for module in added if module.startswith(SLOW_PARTS_OF_TORCH)]


def test_the_package_offers_what_it_lists() -> None:
    import serab_byols

    assert all(hasattr(serab_byols, name) for name in serab_byols.__all__)
    assert {"load_model", "get_scene_embeddings", "get_timestamp_embeddings"} < set(serab_byols.__all__)
    assert list(serab_byols.__all__) == sorted(serab_byols.__all__)


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_and_version_need_neither_torch_nor_numpy(option: str) -> None:
    code = f"sys.argv = ['serab-byols', '{option}']; sys.stdout = sys.stderr"
    run = "from serab_byols.cli import main; import contextlib\nwith contextlib.suppress(SystemExit): main()"
    script = f"import sys; {code}; {run}\nassert not {{'torch', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
