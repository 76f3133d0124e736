"""A model object for mteb's audio tasks, MAEB (arXiv 2602.16008). Needs the extra ``mteb``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from serab_byols._version import __version__
from serab_byols.checkpoint import load_model
from serab_byols.corpus.decoding import resample_array
from serab_byols.corpus.embedding import check_corpus_normalization
from serab_byols.errors import InvalidInputError, missing_extra
from serab_byols.hear import get_scene_embeddings
from serab_byols.model import ByolsModel

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

NAME = "serab-byols/{}"


class MtebEncoder:
    """Scene embeddings, by the encoder interface of mteb.

    Clips of any sample rate are mixed to mono and resampled here (soxr), so that mteb's own resampling, which
    needs torchaudio, is not used.

    Args:
        model: a model, or what :func:`serab_byols.load_model` takes; by default the bundled weights.
        revision: for mteb's record of results; by default the version of this library.
        device: of a model that is loaded here.

    Raises:
        InvalidInputError: a normalisation that is shared between clips.

    Example:
        >>> encoder = MtebEncoder()
        >>> batches = [{"audio": [{"array": np.zeros(44100), "sampling_rate": 44100}]}]
        >>> encoder.encode(batches).shape
        (1, 512)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ByolsModel = "",
        revision: str | None = None,
        *,
        device: str | torch.device | None = None,
    ) -> None:
        self.model = model if isinstance(model, ByolsModel) else load_model(model, device=device or "cpu")
        check_corpus_normalization(self.model)
        self.revision = revision or __version__

    def encode(self, inputs: Iterable[Mapping[str, Any]], **_: Any) -> np.ndarray:
        """Embeddings (n_clips, D), float32.

        Args:
            inputs: batches; ``"audio"`` of each is a list of clips with ``"array"``, samples (n,) or
                (channels, n), and ``"sampling_rate"`` in Hz.
            **_: mteb's task, split, prompt and batch size, which make no difference.

        Raises:
            InvalidInputError: batches without audio, or clips that are no waveforms.
        """
        embeddings = [np.empty((0, self.model.scene_embedding_size), dtype=np.float32)]
        for batch in inputs:
            if "audio" not in batch:
                raise InvalidInputError(f"the model takes audio, got batches of {', '.join(batch)}")
            clips = [self._waveform(clip) for clip in batch["audio"]]
            embeddings.append(get_scene_embeddings(clips, self.model).cpu().numpy())
        return np.concatenate(embeddings)

    def _waveform(self, clip: Any) -> np.ndarray:
        samples = np.asarray(clip["array"], dtype=np.float32)
        return resample_array(samples, int(clip["sampling_rate"]), self.model.sample_rate)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosine similarities (n, m) of embeddings (n, D) and (m, D)."""
        return _normalized(embeddings1) @ _normalized(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosine similarities (n,) of pairs of embeddings (n, D)."""
        return (_normalized(embeddings1) * _normalized(embeddings2)).sum(dim=-1)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb's results say of the model.

        Raises:
            MissingExtraError: mteb is not installed.
        """
        try:
            from mteb.models.model_meta import ModelMeta
        except ImportError as error:
            raise missing_extra("mteb", "mteb", "the description for mteb") from error
        facts = {
            "name": NAME.format(os.path.basename(self.model.source).replace(" ", "-")),
            "revision": self.revision,
            "n_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "embed_dim": self.model.scene_embedding_size,
            "framework": ["PyTorch"],
            "modalities": ["audio"],
            "similarity_fn_name": "cosine",
            "open_weights": True,
            "use_instructions": False,
        }
        return ModelMeta.create_empty(facts)


def _normalized(embeddings: Any) -> torch.Tensor:
    """Of length 1, (n, D); an embedding (D,) as (1, D)."""
    values = torch.atleast_2d(torch.as_tensor(embeddings).float())
    return torch.nn.functional.normalize(values, dim=-1)
