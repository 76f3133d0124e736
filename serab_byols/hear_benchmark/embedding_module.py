"""Any module of the HEAR common API, by name: its model, and its functions with their results checked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from serab_byols.errors import InvalidInputError, SerabByolsError
from serab_byols.hear_benchmark.hear_module import import_hear_module

NEEDED = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")


class HearModule:
    """A module and its model.

    Args:
        name: as in an import; modules in the working directory are found too.
        model_path: of weights, for ``load_model``; by default it is called without.
        options: keyword arguments of ``load_model``.
        device: of the model and the audio.

    Attributes:
        sample_rate_hz: of the audio that it takes.
        version: of the module, if it has one.

    Raises:
        InvalidInputError: no such module, or not of the common API, or its ``load_model`` fails.
    """

    def __init__(
        self,
        name: str,
        model_path: str | None = None,
        options: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self.device = torch.device(device)
        self._module = _imported(name)
        self.version = str(getattr(self._module, "__version__", ""))
        arguments = [] if model_path is None else [model_path]
        try:
            self._model = self._module.load_model(*arguments, **(options or {}))
        except SerabByolsError:
            raise
        except Exception as error:
            raise InvalidInputError(
                f"{name}.load_model failed with {type(error).__name__}: {error}"
            ) from error
        if isinstance(self._model, torch.nn.Module):
            self._model = self._model.to(self.device)
        rate = getattr(self._model, "sample_rate", None)
        if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
            raise InvalidInputError(
                f"the model of {name} has the sample_rate {rate!r}; expected an integer, in Hz"
            )
        self.sample_rate_hz = rate

    def scenes(self, audio: np.ndarray) -> np.ndarray:
        """(n_clips, n_samples) float32 to (n_clips, D) float32."""
        embeddings = self._call("get_scene_embeddings", audio)
        return self._array("get_scene_embeddings", embeddings, len(audio), 2)

    def timestamps(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n_clips, n_samples) float32 to (n_clips, T, D) and (n_clips, T) milliseconds, both float32."""
        name = "get_timestamp_embeddings"
        result = self._call(name, audio)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise InvalidInputError(
                f"{self.name}.{name} returned a {type(result).__name__}; expected two tensors"
            )
        embeddings = self._array(name, result[0], len(audio), 3)
        times = self._array(name, result[1], len(audio), 2)
        if times.shape != embeddings.shape[:2]:
            raise InvalidInputError(
                f"{self.name}.{name} returned {embeddings.shape} embeddings with {times.shape} timestamps"
            )
        if np.any(np.diff(times, axis=1) <= 0):
            raise InvalidInputError(f"{self.name}.{name} returned timestamps that do not rise")
        return embeddings, times

    def _call(self, function: str, audio: np.ndarray) -> Any:
        tensor = torch.from_numpy(audio).to(self.device)
        with torch.no_grad() if isinstance(self._model, torch.nn.Module) else nullcontext():
            return getattr(self._module, function)(tensor, self._model)

    def _array(self, function: str, value: Any, n_clips: int, n_dimensions: int) -> np.ndarray:
        if not isinstance(value, (torch.Tensor, np.ndarray)):
            raise InvalidInputError(
                f"{self.name}.{function} returned a {type(value).__name__}; expected a tensor"
            )
        array = torch.as_tensor(value).detach().to("cpu", torch.float32).numpy()
        if array.ndim != n_dimensions or len(array) != n_clips:
            raise InvalidInputError(
                f"{self.name}.{function} returned a tensor {array.shape} for {n_clips} clips; "
                f"expected {n_dimensions} dimensions, the first one of clips"
            )
        if not np.isfinite(array).all():
            raise InvalidInputError(f"{self.name}.{function} returned NaN or infinity")
        return array


def _imported(name: str) -> Any:
    try:
        module = import_hear_module(name)
    except Exception as error:  # whatever a module does when it is imported
        raise InvalidInputError(
            f"cannot import the module {name!r}: {type(error).__name__}: {error}"
        ) from error
    missing = [function for function in NEEDED if not callable(getattr(module, function, None))]
    if missing:
        raise InvalidInputError(
            f"the module {name!r} is not of the HEAR common API: it lacks {', '.join(missing)}"
        )
    return module
