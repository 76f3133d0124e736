"""Features of clips by one candidate, in a process of its own, with times, peak memory and install size.

``python peer_process.py KIND [ARGUMENT] --clips LIST --output OUT.npz [--core N]``, where LIST has the path
of a WAV file (mono, 16 kHz) a line. ``benchmarks/peers.py`` starts it, with the Python of our environment or
that of the peers. It therefore imports numpy, soundfile, ``packaging`` and what the candidate needs, no more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import soundfile
from install_size import install_size
from peak_memory import peak_rss_bytes

SAMPLE_RATE_HZ = 16000
CREPE_HOP_MS = {"full": 200, "tiny": 20}
"""Of frames. The default is 10 ms, with which the full model is slower than real time on a core."""


class Candidate(NamedTuple):
    """A kind of features.

    Attributes:
        features: of a clip (n,), float32, at 16 kHz: (D,).
        n_parameters: trained or random numbers of a network.
        packages: the distributions that have to be installed with all that they require, the main one first.
        package_data: files of the first that are elsewhere as long as it is installed in place.
    """

    features: Callable[[np.ndarray], np.ndarray]
    n_parameters: int
    packages: tuple[str, ...]
    package_data: tuple[Path, ...] = ()


def model(weights: str) -> Candidate:
    """Scene embeddings of a checkpoint of this library."""
    import serab_byols

    return _of_model(serab_byols.load_model(weights))


def random_weights(weights: str) -> Candidate:
    """Scene embeddings of a checkpoint's architecture with random weights, as ``probe --random`` has them."""
    import serab_byols
    from serab_byols.probe.features import random_model

    return _of_model(random_model(serab_byols.load_model(weights), seed=0))


def _of_model(byols: Any) -> Candidate:
    from serab_byols import get_scene_embeddings

    def features(samples: np.ndarray) -> np.ndarray:
        return get_scene_embeddings([samples], byols)[0].numpy()

    return Candidate(features, _n_parameters(byols), ("serab-byols",), _bundled_files())


def statistics() -> Candidate:
    """Statistics of log-mels and MFCCs over time, as ``probe --log-mel-statistics`` has them."""
    from serab_byols.frontend import TorchFrontend
    from serab_byols.probe.features import clip_statistics

    frontend = TorchFrontend()
    return Candidate(
        lambda samples: clip_statistics(samples, frontend), 0, ("serab-byols",), _bundled_files()
    )


def _bundled_files() -> tuple[Path, ...]:
    """The checkpoints that lie in a wheel."""
    from serab_byols.checkpoint.registry import CHECKPOINT_FOLDERS

    return tuple(path for folder in CHECKPOINT_FOLDERS for path in folder.glob("*.safetensors"))


def _n_parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def resemblyzer() -> Candidate:
    """Resemblyzer's speaker embedding, by its own preprocessing: louder, long silences cut out."""
    from resemblyzer import VoiceEncoder, audio, hparams

    encoder = VoiceEncoder("cpu", verbose=False)

    def features(samples: np.ndarray) -> np.ndarray:
        voiced = audio.preprocess_wav(samples)
        if len(voiced) == 0:  # nothing that its detector takes for a voice: the whole clip
            voiced = audio.normalize_volume(samples, hparams.audio_norm_target_dBFS, increase_only=True)
        return np.asarray(encoder.embed_utterance(voiced))

    return Candidate(features, _n_parameters(encoder), ("resemblyzer", "webrtcvad-wheels"))


def torchcrepe(capacity: str) -> Candidate:
    """The mean over time of the fifth layer of CREPE, ``"full"`` or ``"tiny"``."""
    if find_spec("torchaudio") is None:
        # Only its reader of files, not used here, needs torchaudio, which has no release for this torch.
        sys.modules["torchaudio"] = ModuleType("torchaudio")
    import torch
    import torchcrepe as crepe

    hop_samples = SAMPLE_RATE_HZ * CREPE_HOP_MS[capacity] // 1000

    def features(samples: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            frames = crepe.embed(torch.from_numpy(samples)[None], SAMPLE_RATE_HZ, hop_samples, capacity)
        return frames[0].flatten(1).mean(dim=0).numpy()  # (T, 32, D / 32) to (D,)

    crepe.load.model("cpu", capacity)
    return Candidate(features, _n_parameters(crepe.infer.model), ("torchcrepe",))


def opensmile(feature_set: str) -> Candidate:
    """Functionals of a feature set of openSMILE."""
    import opensmile as smile

    extractor = smile.Smile(smile.FeatureSet[feature_set], smile.FeatureLevel.Functionals)

    def features(samples: np.ndarray) -> np.ndarray:
        return extractor.process_signal(samples, SAMPLE_RATE_HZ).to_numpy(np.float32)[0]

    return Candidate(features, 0, ("opensmile",))


KINDS: dict[str, Callable[..., Candidate]] = {
    "model": model,
    "random": random_weights,
    "statistics": statistics,
    "resemblyzer": resemblyzer,
    "torchcrepe": torchcrepe,
    "opensmile": opensmile,
}


def measured(candidate: Candidate, clips: list[Path]) -> tuple[np.ndarray, dict[str, Any]]:
    """Features (n, D) of clips one by one, and what they took; the first clip also warms up, uncounted."""
    candidate.features(_read(clips[0]))
    vectors, seconds, n_samples = [], [], 0
    for path in clips:
        samples = _read(path)
        start = time.perf_counter()
        vectors.append(candidate.features(samples))
        seconds.append(time.perf_counter() - start)
        n_samples += len(samples)
    features = np.stack(vectors).astype(np.float32)
    return features, {"audio_s": n_samples / SAMPLE_RATE_HZ, "seconds": sum(seconds)}


def _read(path: Path) -> np.ndarray:
    samples, rate_hz = soundfile.read(path, dtype="float32")
    if rate_hz != SAMPLE_RATE_HZ or samples.ndim != 1:
        raise SystemExit(f"{path} is not mono at {SAMPLE_RATE_HZ} Hz")
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument(
        "argument", nargs="?", help="weights, the capacity of CREPE, or a feature set of openSMILE"
    )
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--core", type=int, help="the only core to run on")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    start = time.perf_counter()
    candidate = KINDS[options.kind](*([] if options.argument is None else [options.argument]))
    load_s = time.perf_counter() - start
    clips = [Path(line) for line in options.clips.read_text(encoding="utf-8").splitlines()]
    features, facts = measured(candidate, clips)
    facts |= {
        "load_s": load_s,
        "peak_bytes": peak_rss_bytes(),
        "embedding_size": features.shape[1],
        "n_parameters": candidate.n_parameters,
        "package": candidate.packages[0],
        "version": version(candidate.packages[0]),
        **install_size(candidate.packages, candidate.package_data)._asdict(),
    }
    np.savez(options.output, features=features, facts=json.dumps(facts))


if __name__ == "__main__":
    main()
