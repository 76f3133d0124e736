"""Weights that have a name: the published ones, and those that lie in ``checkpoints/``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serab_byols.checkpoint.reading import read_checkpoint_file

DEFAULT_NAME = "byols-audiontt-512-distilled"
DEFAULT_CHECKPOINT = f"{DEFAULT_NAME}.safetensors"
"""What ``load_model()`` loads: the file of this name in ``checkpoints/``, which the wheel carries."""

_PACKAGE = Path(__file__).resolve().parents[1]
CHECKPOINT_FOLDERS = (_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints")
"""Package data of an installed wheel, and the folder of a source tree."""

_SERAB = "Scheidwasser-Clow et al., ICASSP 2022, https://arxiv.org/abs/2110.03414"
_HYBRID = "Elbanna et al., 2022, https://arxiv.org/abs/2203.16637"
# These files are on a branch: what identifies them is the digest, wherever the branch moves.
_BYOLS_REPOSITORY = "https://raw.githubusercontent.com/GasserElbanna/serab-byols/main/checkpoints"
_SERAB_REPOSITORY = "https://raw.githubusercontent.com/Neclow/SERAB/8023cb75dc6f32a6f211bfbc83efe9491c41d8b7/SERAB/checkpoints"


@dataclass(frozen=True)
class PublishedWeights:
    """A file that others publish, and how it is told from every other file."""

    name: str
    file_name: str
    encoder: str
    embedding_size: int
    folder_url: str
    git_blob_id: str
    """SHA-1 of ``blob <size>\\0`` and the bytes: what git calls the file."""
    sha256: str | None
    n_bytes: int | None
    licence: str
    citation: str

    @property
    def url(self) -> str:
        """Where the file is published."""
        return f"{self.folder_url}/{self.file_name}"


@dataclass(frozen=True)
class BundledWeights:
    """A self-describing checkpoint in ``checkpoints/``; its header says all but the name."""

    name: str
    path: Path
    encoder: str
    embedding_size: int
    licence: str | None
    citation: str | None


PUBLISHED = (
    PublishedWeights(
        name="byols-audiontt-2048",
        file_name="default2048_BYOLAs64x96-2105311814-e100-bs256-lr0003-rs42.pth",
        encoder="default",
        embedding_size=2048,
        folder_url=_BYOLS_REPOSITORY,
        git_blob_id="04fb26805f52db1af541b2186d1fc1a9ce86e4c7",
        sha256="902dfff8ed4ed1546275b14eb2114901cbfc2c9efe737ce97c7aeb582b6057a4",
        n_bytes=21_297_232,
        licence="MIT",
        citation=_SERAB,
    ),
    PublishedWeights(
        name="byols-resnetish34-2048",
        file_name="resnetish34_BYOLAs64x96-2105271915-e100-bs256-lr0003-rs42.pth",
        encoder="resnetish34",
        embedding_size=2048,
        folder_url=_BYOLS_REPOSITORY,
        git_blob_id="5f5fc2d07aff90728c3d0e5b90051fe24aa55464",
        sha256="7bd85cd7cb85b632b8794c8072f2a3f43dc7e7f0ae42c548db1d299c7d96e6c5",
        n_bytes=85_254_535,
        licence="MIT",
        citation=_SERAB,
    ),
    PublishedWeights(
        name="hybrid-byols-cvt-2048",
        file_name=(
            "cvt_s1-d1-e64_s2-d1-e256_s3-d1-e512_BYOLAs64x96-osandbyolaloss6373-e100-bs256-lr0003-rs42.pth"
        ),
        encoder="cvt",
        embedding_size=2048,
        folder_url=_BYOLS_REPOSITORY,
        git_blob_id="74a0ba6607277e6afc57c444752735e974de0f80",
        sha256=None,
        n_bytes=None,
        licence="MIT",
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
        licence="MIT",
        citation=_SERAB,
    ),
)


def published(name: str) -> PublishedWeights | None:
    """The published weights of this name."""
    return next((weights for weights in PUBLISHED if weights.name == name), None)


def published_as(file_name: str) -> PublishedWeights | None:
    """The weights that are published under this file name."""
    return next((weights for weights in PUBLISHED if weights.file_name == file_name), None)


def bundled_path(name: str) -> Path | None:
    """Where the bundled weights of this name lie; the first folder wins."""
    return next((path for path in bundled_paths() if path.stem == name), None)


def bundled_paths() -> Iterator[Path]:
    """Files in ``checkpoints/`` that have a name of their own, each name once."""
    seen = {weights.name for weights in PUBLISHED}
    for folder in CHECKPOINT_FOLDERS:
        for path in sorted(folder.glob("*.safetensors")):
            if path.stem not in seen and path.is_file():
                seen.add(path.stem)
                yield path


def describe_bundled(path: Path) -> BundledWeights:
    """What a bundled checkpoint says of itself.

    Raises:
        CheckpointError: the file is damaged or something else.
    """
    checkpoint = read_checkpoint_file(path)
    facts = checkpoint.training_facts
    return BundledWeights(
        name=path.stem,
        path=path,
        encoder=checkpoint.encoder,
        embedding_size=checkpoint.build_encoder().embedding_size,
        licence=_text(facts.get("licence")),
        citation=_text(facts.get("citation")),
    )


def _text(fact: object) -> str | None:
    return None if fact is None else str(fact)


def names() -> list[str]:
    """Every name that ``load_model`` knows on this machine, the default first."""
    bundled = sorted((path.stem for path in bundled_paths()), key=lambda name: name != DEFAULT_NAME)
    return [*bundled, *(weights.name for weights in PUBLISHED)]


def unknown_name(name: str) -> str:
    """Words for the user who asked for weights of a name that there is not."""
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    return f"there are no weights named {name!r}{meant} `serab-byols list` shows the names"
