"""Hand-made statistics of clips, to compare embeddings with."""

from __future__ import annotations

import numpy as np
import torch

from serab_byols.corpus.log_mel_statistics import N_STATISTICS, STATISTICS, log_mel_statistics
from serab_byols.frontend import MIN_SAMPLES, TorchFrontend

DESCRIPTION = {"kind": "hand-made statistics", "features": STATISTICS, "embedding_size": N_STATISTICS}


def handmade_features(samples: np.ndarray, frontend: TorchFrontend) -> np.ndarray:
    """Statistics over time of a clip.

    Args:
        samples: mono at 16 kHz, float32 (n,); a clip too short for the front end gets zeros appended.
        frontend: waveform to log-mel.

    Returns:
        float32 (588,); see :mod:`serab_byols.corpus.log_mel_statistics`.
    """
    short_by = max(0, MIN_SAMPLES - len(samples))
    waveform = torch.from_numpy(np.pad(samples, (0, short_by)))[None]
    return log_mel_statistics(frontend(waveform).double())[0].float().numpy()
