"""The weights that have a name: the published ones, and the checkpoints in ``checkpoints/``."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from serab_byols.errors import CheckpointNotFoundError
from serab_byols.normalization import Statistics
from serab_byols.paths import path_text

DEFAULT_WEIGHTS: dict[str, str] = {
    "default": "byols-audiontt-512-distilled",
    "cvt": "byols-cvt-2048-distilled",
}
"""What ``load_model(model_name=...)`` loads: by the encoder's name, that of a file in ``checkpoints/``, which
the wheel contains. The first are the weights of ``load_model()``."""

DEFAULT_NAME = next(iter(DEFAULT_WEIGHTS.values()))

_PACKAGE = Path(__file__).resolve().parents[1]
COMPONENTS_SUFFIX = ".pca.safetensors"
"""Of the principal components of a checkpoint's embeddings, which lie beside it."""

CHECKPOINT_FOLDERS = (_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints")
"""Package data of an installed wheel, and the folder of a source tree."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
"""What looks like a name; a path has a separator or an ending."""

_SERAB = "Scheidwasser-Clow et al., ICASSP 2022, https://arxiv.org/abs/2110.03414"
_HYBRID = "Elbanna et al., 2022, https://arxiv.org/abs/2203.16637"
# The first repository is linked at its branch: the digests identify the files, wherever the branch moves.
_BYOLS_REPOSITORY = "https://raw.githubusercontent.com/GasserElbanna/serab-byols/main/checkpoints"
_SERAB_REPOSITORY = "https://raw.githubusercontent.com/Neclow/SERAB/8023cb75dc6f32a6f211bfbc83efe9491c41d8b7/SERAB/checkpoints"


@dataclass(frozen=True)
class PublishedWeights:
    """A file published by the authors of BYOL-S, and the digests that identify it."""

    name: str
    file_name: str
    encoder: str
    embedding_size: int
    git_blob_id: str
    """SHA-1 of ``blob <size>\\0`` and the bytes: git's own name for the file."""
    sha256: str | None
    n_bytes: int | None
    folder_url: str = _BYOLS_REPOSITORY
    citation: str = _SERAB
    licence: str = "MIT"
    statistics: Statistics | None = None
    """Of the log-mel, recommended for ``normalization="auto"``: the files themselves hold none."""
    statistics_source: str | None = None
    """Where they come from."""

    @property
    def url(self) -> str:
        """Where the file is published."""
        return f"{self.folder_url}/{self.file_name}"


PUBLISHED = (
    PublishedWeights(
        name="byols-audiontt-2048",
        file_name="default2048_BYOLAs64x96-2105311814-e100-bs256-lr0003-rs42.pth",
        encoder="default",
        embedding_size=2048,
        git_blob_id="04fb26805f52db1af541b2186d1fc1a9ce86e4c7",
        sha256="902dfff8ed4ed1546275b14eb2114901cbfc2c9efe737ce97c7aeb582b6057a4",
        n_bytes=21_297_232,
    ),
    PublishedWeights(
        name="byols-resnetish34-2048",
        file_name="resnetish34_BYOLAs64x96-2105271915-e100-bs256-lr0003-rs42.pth",
        encoder="resnetish34",
        embedding_size=2048,
        git_blob_id="5f5fc2d07aff90728c3d0e5b90051fe24aa55464",
        sha256="7bd85cd7cb85b632b8794c8072f2a3f43dc7e7f0ae42c548db1d299c7d96e6c5",
        n_bytes=85_254_535,
    ),
    PublishedWeights(
        name="hybrid-byols-cvt-2048",
        file_name=(
            "cvt_s1-d1-e64_s2-d1-e256_s3-d1-e512_BYOLAs64x96-osandbyolaloss6373-e100-bs256-lr0003-rs42.pth"
        ),
        encoder="cvt",
        embedding_size=2048,
        git_blob_id="74a0ba6607277e6afc57c444752735e974de0f80",
        sha256=None,
        n_bytes=None,
        citation=_HYBRID,
    ),
    PublishedWeights(
        name="byols-audiontt-512",
        file_name="default512_BYOLAs64x96-2107281850-e100-bs256-lr0003-rs42.pth",
        encoder="default",
        embedding_size=512,
        folder_url=_SERAB_REPOSITORY,
        git_blob_id="f4283f224c40a869e7bed9fd64316342ee2809c7",
        sha256="449f5d0dc6b6fa8433d5e43769097520d3bc0fdae88977a7ac29e2e72ca51b52",
        n_bytes=2_409_434,
        statistics=Statistics(-6.0, 5.0),
        statistics_source=(
            "not from the authors: measured by this project, whose linear probe of ten kinds of sounds "
            "(ESC-10) has an accuracy of 0.937 with them and of 0.890 with each clip's own"
        ),
    ),
)


def published(name: str) -> PublishedWeights | None:
    """The published weights of this name."""
    return next((weights for weights in PUBLISHED if weights.name == name), None)


def bundled() -> dict[str, Path]:
    """The checkpoints in ``checkpoints/`` by their names, the default first."""
    paths = [path for folder in CHECKPOINT_FOLDERS for path in folder.glob("*.safetensors") if path.is_file()]
    paths = [path for path in paths if not path.name.endswith(COMPONENTS_SUFFIX)]
    by_name = {path.stem: path for path in reversed(paths) if published(path.stem) is None}  # the first wins
    return {name: by_name[name] for name in sorted(by_name, key=lambda name: (name != DEFAULT_NAME, name))}


def find_weights(path_or_name: str | os.PathLike[str], encoder: str | None = None) -> Path | PublishedWeights:
    """The path of a checkpoint, or the published weights, that a path or a name stands for.

    A file at that path comes first, then the names; empty stands for the bundled weights of ``encoder``,
    or without one for the default weights.

    Raises:
        CheckpointNotFoundError: neither a file nor a name, or no bundled weights of this encoder; the message
            says what to do.
    """
    text = path_text(path_or_name, "a checkpoint")
    if os.path.isfile(text):
        return Path(text)
    name = text or _default_name(encoder)
    found = published(name) or bundled().get(name)
    if found is None and not os.path.lexists(text):
        raise CheckpointNotFoundError(f"checkpoint {name} does not exist{_suggestion(name)}")
    return found or Path(text)


def _default_name(encoder: str | None) -> str:
    """The name of the weights that are loaded where none are named."""
    if encoder is None:
        return DEFAULT_NAME
    if encoder in DEFAULT_WEIGHTS:
        return DEFAULT_WEIGHTS[encoder]
    there = ", ".join(f"{name} ({of_encoder!r})" for of_encoder, name in DEFAULT_WEIGHTS.items())
    names = [weights.name for weights in PUBLISHED if weights.encoder == encoder]
    to_download = f"; load_model({names[0]!r}) downloads published ones" if names else ""
    raise CheckpointNotFoundError(
        f"there are no bundled weights of the encoder {encoder!r}, only {there}{to_download}; "
        f"create_model({encoder!r}) has random ones"
    )


def _suggestion(text: str) -> str:
    """How to get a published file that is absent, or which name may be meant."""
    path = Path(text)
    weights = next((weights for weights in PUBLISHED if weights.file_name == path.name), None)
    if weights is not None:
        command = f"serab-byols download {weights.name} -o {shlex.quote(str(path.parent))}"
        by_name = f'load_model("{weights.name}")'
        return f". To put it there: {command}. Or load it by its name, which downloads it once: {by_name}"
    if not _NAME.fullmatch(text):
        return ""
    names = [*bundled(), *(weights.name for weights in PUBLISHED)]
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    return f", and there are no weights named {text!r}{meant} `serab-byols list` shows the names"
