"""The model card of a shared model: what the checkpoint says of itself, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from serab_byols._version import __version__
from serab_byols.checkpoint import weights_sha256
from serab_byols.checkpoint.hub_download import HUB_FILE
from serab_byols.model import ByolsModel

TAGS = ("audio", "speech", "audio-embeddings", "BYOL-S", "HEAR")


def model_card(model: ByolsModel, repo_id: str, more_front_matter: Mapping[str, Any]) -> ModelCard:
    """The card with its front matter; the licence is the training fact of that name, if there is one."""
    licence = model.training_facts.get("licence")
    front_matter: dict[str, Any] = {
        "library_name": "serab-byols",
        "pipeline_tag": "feature-extraction",
        "tags": [*TAGS, model.encoder.name],
        "license": licence.lower() if isinstance(licence, str) else None,
    }
    data = ModelCardData(**{**front_matter, **more_front_matter})
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(model, repo_id)}")


def card_text(model: ByolsModel, repo_id: str) -> str:
    """The card below its front matter, in Markdown."""
    repository = repo_id if "/" in repo_id else f"OWNER/{repo_id or 'NAME'}"
    n_parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    config = ", ".join(f"{key} = {value}" for key, value in model.encoder.config.items())
    if model.statistics is None:
        statistics = "none are stored: each clip's own"
    else:
        statistics = f"mean {model.statistics.mean:.6g}, standard deviation {model.statistics.std:.6g}"
    facts = json.dumps(model.training_facts, indent=2, ensure_ascii=False, sort_keys=True)
    return f"""\
# Speech embeddings by BYOL-S

A model from a waveform (mono, {model.sample_rate} Hz) to an embedding of {model.embedding_size} numbers,
for the Python library `serab_byols`. It follows the [HEAR 2021 common API](https://hearbenchmark.com/hear-api.html).

```python
import serab_byols

model = serab_byols.load_model("hf://{repository}")  # pip install 'serab-byols[hub]'
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

The method is BYOL-S ([Scheidwasser-Clow et al., 2021](https://arxiv.org/abs/2110.03414)); its other encoders
are in [Elbanna et al., 2022](https://arxiv.org/abs/2206.12038), Hybrid BYOL-S in
[Elbanna et al., 2022](https://arxiv.org/abs/2203.16637).
"""
