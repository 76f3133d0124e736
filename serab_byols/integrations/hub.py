"""Sharing models on the Hugging Face Hub. Needs the extra ``hub``.

To load what is shared, ``serab_byols.load_model("hf://owner/name")`` is enough.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from serab_byols.checkpoint import save_checkpoint
from serab_byols.checkpoint.hub_download import (
    HUB_FILE,
    HubAddress,
    download_from_hub,
    is_hub_address,
    parse_hub_address,
)
from serab_byols.checkpoint.loading import model_of
from serab_byols.checkpoint.reading import read_safetensors
from serab_byols.errors import CheckpointNotFoundError, InvalidInputError, missing_extra
from serab_byols.frontend import FrontendName
from serab_byols.model import ByolsModel
from serab_byols.normalization import NormalizationName

try:
    from huggingface_hub import ModelCard, ModelHubMixin

    from serab_byols.integrations.model_card import model_card
except ImportError as error:
    raise missing_extra("huggingface_hub", "hub", "sharing models on the Hugging Face Hub") from error


class ByolsHubModel(ByolsModel, ModelHubMixin):
    """A :class:`ByolsModel` with ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    A repository holds ``model.safetensors``, a checkpoint as :func:`serab_byols.save_checkpoint` writes it,
    and a model card, which is left alone if it is there already.

    Args:
        model: whose front end and encoder this model shares.

    Example:
        >>> import tempfile
        >>> from serab_byols.integrations.hub import ByolsHubModel
        >>> model = ByolsHubModel(serab_byols.create_model(d=64))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = model.save_pretrained(folder)
        ...     ByolsHubModel.from_pretrained(folder).embedding_size
        64
        >>> model.push_to_hub("me/my-speech-model")  # doctest: +SKIP
    """

    def __init__(self, model: ByolsModel) -> None:
        super().__init__(
            model.encoder,
            model.frontend,
            normalization=model.normalization,
            statistics=model.statistics,
            training_facts=model.training_facts,
            source=model.source,
        )
        self.training = model.training

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the options are those of load_model
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool | None = None,
        token: str | bool | None = None,
        normalization: NormalizationName | tuple[float, float] = "auto",
        frontend: FrontendName = "torch",
        device: str | torch.device = "cpu",
    ) -> ByolsHubModel:
        """A model, in eval mode, from a folder written by ``save_pretrained``, or from the Hub.

        Args:
            pretrained_model_name_or_path: a folder, ``owner/name`` or ``hf://owner/name``.
            revision: branch, tag or commit.
            cache_dir: of the Hub's files; by default the Hub's own.
            force_download: whether to download what is in the cache.
            local_files_only: whether to look in the cache alone; by default as ``HF_HUB_OFFLINE`` and
                ``SERAB_BYOLS_OFFLINE`` say.
            token: by default that of ``hf auth login`` or ``HF_TOKEN``.
            normalization, frontend, device: as for :func:`serab_byols.load_model`.

        Raises:
            CheckpointNotFoundError: no checkpoint in the folder; no such repository, revision or file.
            CheckpointError: the file is damaged or something else.
            DownloadError: the Hub cannot be reached, or refuses.
        """
        name = os.fspath(pretrained_model_name_or_path)
        if os.path.isdir(name):
            path, source = Path(name) / HUB_FILE, None
            if not path.is_file():
                raise CheckpointNotFoundError(f"the folder {name} holds no {HUB_FILE}")
        else:
            given = _address_of(name)
            wanted = HubAddress(given.repository, revision or given.revision, given.file)
            path, found = download_from_hub(wanted, cache_dir, local_files_only, token, force_download)
            source = str(found)
        checkpoint = replace(read_safetensors(path), source=source)
        loaded = model_of(checkpoint, normalization=normalization, frontend=frontend, device=device)
        return cls(loaded)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_checkpoint(self, save_directory / HUB_FILE)

    def push_to_hub(
        self, repo_id: str, *, model_card_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> str:
        """Upload the checkpoint and a model card, and make the repository if there is none.

        Args:
            repo_id: ``owner/name``, or ``name`` for one of yours.
            model_card_kwargs: more of the card's front matter, such as ``{"license": "cc-by-4.0"}``.
            **options: of the Hub's mixin: ``private``, ``token``, ``branch``, ``create_pr`` and more.

        Returns:
            The commit, as the Hub gives it (``CommitInfo``).

        Raises:
            InvalidInputError: weights that are NaN or infinite.
            OSError: the Hub cannot be reached, or refuses; these errors are the Hub's own.
        """
        card = {"repo_id": repo_id, **(model_card_kwargs or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    def generate_model_card(self, *, repo_id: str = "", **card_data: Any) -> ModelCard:
        """The card of this model.

        Args:
            repo_id: where it will be.
            **card_data: more of the front matter (``model_card_kwargs``).
        """
        return model_card(self, repo_id, card_data)


def _address_of(name: str) -> HubAddress:
    if is_hub_address(name):
        return parse_hub_address(name)
    try:
        return parse_hub_address(f"hf://{name}")
    except InvalidInputError as error:
        raise CheckpointNotFoundError(
            f"there is no folder {name!r}, and it is not the owner/name of a repository on the Hub"
        ) from error
