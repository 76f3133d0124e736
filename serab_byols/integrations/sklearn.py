"""Embeddings as a step of scikit-learn's pipelines. Needs the extra ``sklearn``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from serab_byols.checkpoint import load_model
from serab_byols.corpus.decoding import resample_array
from serab_byols.corpus.embedding import check_corpus_normalization, embed_files
from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError, missing_extra
from serab_byols.hear import get_scene_embeddings
from serab_byols.integrations.pandas import column_names
from serab_byols.model import ByolsModel
from serab_byols.normalization import NormalizationName

try:
    from scipy.sparse import issparse
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_array, validate_data
except ImportError as error:
    raise missing_extra("scikit-learn", "sklearn", "ByolsTransformer") from error

_MAX_CHANNELS = 32
_CLIPS_AT_ONCE = 256
"""Arrays that are resampled, and embedded in one call."""


class ByolsTransformer(TransformerMixin, BaseEstimator):
    """Audio files or waveforms to scene embeddings (n_clips, D), float32.

    It learns nothing from the clips: an embedding depends on its clip alone, and ``transform`` works without
    ``fit``. The weights are loaded when they are first needed and are not pickled, so that clones, pickles
    and joblib's processes carry their name alone. Those processes must be started afresh, as joblib's
    default (loky) does: a fork of a process that has used torch hangs.

    Args:
        model: what :func:`serab_byols.load_model` takes: the name of weights, a path, ``hf://owner/name``, or
            empty for the default weights; or a :class:`ByolsModel`, which clones copy and pickles contain.
        normalization: ``"auto"``, ``"clip"`` or (mean, std); None stands for the model's own, which is
            ``"auto"`` where it is loaded here.
        sample_rate: of arrays, in Hz; they are resampled. Files state theirs.
        device: where a model that is loaded here goes.

    Attributes:
        embedding_size_: D, after ``fit``.
        n_features_in_: samples a clip, after ``fit`` on an array (n_clips, n_samples); clips of other lengths
            may follow.

    Example:
        >>> from serab_byols.integrations.sklearn import ByolsTransformer
        >>> ByolsTransformer().fit_transform([clip_path, clip_path]).shape
        (2, 512)
        >>> ByolsTransformer(sample_rate=8000).fit_transform(np.zeros((3, 8000))).shape  # three clips of 1 s
        (3, 512)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ByolsModel = "",
        *,
        normalization: NormalizationName | tuple[float, float] | None = None,
        sample_rate: int = 16000,
        device: str | torch.device = "cpu",
    ) -> None:
        self.model = model
        self.normalization = normalization
        self.sample_rate = sample_rate
        self.device = device

    def fit(self, X: Any, y: Any = None) -> ByolsTransformer:  # noqa: N803 - scikit-learn's name
        """Load the model and check the form of X; files are not opened.

        Raises:
            InvalidInputError: a normalisation that clips share, or an unknown one.
            ValueError: neither paths nor waveforms; from scikit-learn for arrays.
            SerabByolsError: the model cannot be loaded, as for :func:`serab_byols.load_model`.
        """
        self.embedding_size_ = self._current_model().embedding_size
        for name in ("n_features_in_", "feature_names_in_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        if _listed(X) is None:
            validate_data(self, X)
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Embeddings (n_clips, D), float32.

        Args:
            X: a list, array or Series of paths (or of :class:`~serab_byols.corpus.segments.Segment`); a list
                of waveforms (n_samples,), or (n_channels, n_samples) to be mixed; or an array
                (n_clips, n_samples), floating point.

        Raises:
            AudioFileError: a file is missing, unreadable or empty.
            InvalidInputError: another form, no samples, integers, NaN or infinity.
        """
        model = self._current_model()
        clips = _listed(X)
        if clips is None:
            table = check_array(X)
            _warn_of_channels(table)
            clips = list(table)
        if _is_path(clips[0]):
            return np.stack([record.embedding for record in embed_files(clips, model)])
        return np.concatenate(list(self._embedded(clips, model)))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """``byols_0`` and so on, whatever the names of the samples."""
        return np.asarray(column_names(self._current_model().embedding_size), dtype=object)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_loaded_", None)
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []  # float32 from any
        return tags

    def _current_model(self) -> ByolsModel:
        """The model of the current parameters, loaded when they have changed."""
        key = (self.model, repr(self.normalization), str(self.device))
        if getattr(self, "_loaded_", (None, None))[0] != key:
            self._loaded_ = (key, self._prepared_model())
        return self._loaded_[1]

    def _prepared_model(self) -> ByolsModel:
        given = self.model
        if not isinstance(given, ByolsModel):
            rule = "auto" if self.normalization is None else self.normalization
            model = load_model(given, normalization=rule, device=self.device)
        elif self.normalization is None:
            model = given
        else:  # the caller's keeps its own
            model = ByolsModel(
                given.encoder, given.frontend, normalization=self.normalization, statistics=given.statistics
            )
        check_corpus_normalization(model)
        return model

    def _embedded(self, clips: Sequence[Any], model: ByolsModel) -> Iterator[np.ndarray]:
        for first in range(0, len(clips), _CLIPS_AT_ONCE):
            waveforms = [
                resample_array(_as_array(clip), self.sample_rate, model.sample_rate)
                for clip in clips[first : first + _CLIPS_AT_ONCE]
            ]
            yield get_scene_embeddings(waveforms, model).cpu().numpy()


def _listed(X: Any) -> list[Any] | None:  # noqa: N803
    """The clips of X where it is a sequence of paths or of waveforms; None for what may be a table.

    Raises:
        InvalidInputError: a single path.
    """
    if _is_path(X):
        raise InvalidInputError(f"X must be a list of clips: for one clip pass [{X!r}]")
    n_axes = getattr(X, "ndim", None)
    if n_axes == 1 or isinstance(X, (list, tuple)):
        clips = list(X)
    elif n_axes == 2 and X.shape[1] == 1 and not issparse(X):  # a column, as from a table
        clips = np.asarray(X).ravel().tolist()
    else:
        return None
    are_clips = len(clips) > 0 and (_is_path(clips[0]) or getattr(clips[0], "ndim", 0) > 0)
    return clips if are_clips else None


def _warn_of_channels(table: np.ndarray) -> None:
    n_clips, n_samples = table.shape
    if n_samples <= _MAX_CHANNELS < n_clips:
        warnings.warn(
            f"X of shape {table.shape} is {n_clips} clips of {n_samples} samples; if it is one clip, "
            "(n_samples, n_channels), pass [X]",
            stacklevel=3,
        )


def _is_path(item: object) -> bool:
    return isinstance(item, (str, bytes, os.PathLike, Segment))


def _as_array(clip: Any) -> np.ndarray:
    if isinstance(clip, torch.Tensor):
        clip = clip.detach().cpu()
        clip = clip.float() if clip.is_floating_point() else clip
    return np.asarray(clip)
