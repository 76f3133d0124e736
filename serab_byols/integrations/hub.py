"""Sharing models on the Hugging Face Hub. Needs the extra ``hub``.

To load what is shared, ``serab_byols.load_model("hf://owner/name")`` is enough.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from serab_byols._version import __version__
from serab_byols.checkpoint import save_checkpoint, weights_sha256
from serab_byols.checkpoint.hub_download import (
    HUB_FILE,
    HubAddress,
    download_from_hub,
    is_hub_address,
    parse_hub_address,
)
from serab_byols.checkpoint.loading import model_of
from serab_byols.checkpoint.reading import read_safetensors
from serab_byols.errors import CheckpointNotFoundError, missing_extra
from serab_byols.frontend import FrontendName
from serab_byols.model import ByolsModel
from serab_byols.normalization import NormalizationName

try:
    from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin
except ImportError as error:
    raise missing_extra("huggingface_hub", "hub", "sharing models on the Hugging Face Hub") from error

TAGS = ("audio", "speech", "audio-embeddings", "BYOL-S", "HEAR")


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
            given = parse_hub_address(name if is_hub_address(name) else f"hf://{name}")
            wanted = HubAddress(given.repository, revision or given.revision, given.file)
            path, found = download_from_hub(wanted, cache_dir, local_files_only, token, force_download)
            source = str(found)
        checkpoint = replace(read_safetensors(path), source=source)
        loaded = model_of(checkpoint, normalization=normalization, frontend=frontend, device=device)
        return cls(loaded)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_checkpoint(self, save_directory / HUB_FILE)

    def generate_model_card(self, *args: Any, **card_data: Any) -> ModelCard:
        """The card of this model; ``card_data`` (``model_card_kwargs``) is added to its front matter."""
        facts = self.training_facts
        licence = facts.get("licence")
        front_matter: dict[str, Any] = {
            "library_name": "serab-byols",
            "pipeline_tag": "feature-extraction",
            "tags": [*TAGS, self.encoder.name],
            "license": licence.lower() if isinstance(licence, str) else None,
        }
        data = ModelCardData(**{**front_matter, **card_data})
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_card_text(self)}")


def _card_text(model: ByolsModel) -> str:
    n_parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    config = ", ".join(f"{key} = {value}" for key, value in model.encoder.config.items())
    if model.statistics is None:
        statistics = "none are stored: each clip's own"
    else:
        statistics = f"mean {model.statistics.mean:.6g}, standard deviation {model.statistics.std:.6g}"
    facts = json.dumps(model.training_facts, indent=2, ensure_ascii=False, sort_keys=True)
    return f"""\
# Speech embeddings by BYOL-S

A model from a waveform (mono, {model.sample_rate} Hz) to an embedding of {model.embedding_size} numbers, for
[serab_byols](https://pypi.org/project/serab-byols). It follows the
[HEAR 2021 common API](https://hearbenchmark.com/hear-api.html).

```python
import serab_byols

model = serab_byols.load_model("hf://OWNER/NAME")  # this repository; pip install 'serab-byols[hub]'
record = serab_byols.embed_file("clip.wav", model)
print(record.embedding.shape)  # ({model.embedding_size},)
```

| | |
|---|---|
| encoder | `{model.encoder.name}`{f" ({config})" if config else ""}, {n_parameters:,} parameters |
| input | mono waveform at {model.sample_rate} Hz, of any length |
| embedding | {model.embedding_size} numbers a clip, or a frame |
| log-mel normalisation | {statistics} |
| weights' SHA-256 | `{weights_sha256(model.encoder)}` |
| written by | serab_byols {__version__} |

`{HUB_FILE}` describes itself: its header holds the encoder, the statistics, the facts below and checksums of
both. It is safetensors; nothing is unpickled.

## Training

What the checkpoint says of itself:

```json
{facts}
```

The method: BYOL-S ([Scheidwasser-Clow et al., 2021](https://arxiv.org/abs/2110.03414)); the encoders and Hybrid
BYOL-S: [Elbanna et al., 2022](https://arxiv.org/abs/2203.16637), [2206.12038](https://arxiv.org/abs/2206.12038).
"""
