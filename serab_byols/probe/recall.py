"""Unweighted average recall. scikit-learn is imported with this module."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import recall_score


def unweighted_average_recall(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall over the labels in ``truth``: balanced accuracy, also where others are predicted."""
    return float(recall_score(truth, predicted, labels=np.unique(truth), average="macro"))
