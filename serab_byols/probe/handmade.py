"""Log-mel and MFCC statistics: features that nobody trained, to compare with those that somebody did.

Of the 64 log-mel bands, of 20 mel-frequency cepstral coefficients (Davis and Mermelstein, 1980), and
of the differences of both from frame to frame, what they are like over time.
"""

from __future__ import annotations

import numpy as np
import torch

from serab_byols.frontend import MIN_SAMPLES, N_MELS, TorchFrontend

N_MFCC = 20
FEATURE_SIZE = (N_MELS + N_MFCC) * 7

DESCRIPTION = {
    "kind": "hand-made statistics",
    "features": f"mean, standard deviation, minimum, median and maximum over time of {N_MELS} log-mel "
    f"bands and {N_MFCC} MFCCs; mean absolute value and standard deviation of their differences",
    "embedding_size": FEATURE_SIZE,
}


def handmade_features(samples: np.ndarray, frontend: TorchFrontend) -> np.ndarray:
    """Statistics over time of a clip.

    Args:
        samples: mono at 16 kHz, float32 (n,); a clip too short for the front end gets zeros appended.
        frontend: waveform to log-mel.

    Returns:
        float32 (588,): seven statistics of 84 bands and coefficients.
    """
    from scipy.fft import dct  # scikit-learn, which the probe needs anyway, brings scipy

    short_by = max(0, MIN_SAMPLES - len(samples))
    waveform = torch.from_numpy(np.pad(samples, (0, short_by)))[None]
    log_mel = frontend(waveform)[0].double().numpy()  # (64, T)
    rows = np.concatenate([log_mel, dct(log_mel, axis=0, norm="ortho")[:N_MFCC]])  # (84, T)
    changes = np.diff(rows) if rows.shape[1] > 1 else np.zeros_like(rows)
    statistics = [
        rows.mean(axis=1),
        rows.std(axis=1),
        *np.quantile(rows, (0.0, 0.5, 1.0), axis=1),
        np.abs(changes).mean(axis=1),
        changes.std(axis=1),
    ]
    return np.concatenate(statistics).astype(np.float32)
