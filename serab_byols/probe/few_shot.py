"""Few-shot classification by the protocol of MAEB (arXiv 2602.16008), as the package mteb runs it.

For each draw some training clips of every label are drawn, a plain logistic regression is fitted to their
embeddings as they are, and all test clips are predicted. With few clips it is the embedding that is
tested rather than the classifier. scikit-learn is imported with this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from threadpoolctl import threadpool_limits

from serab_byols.probe.recall import unweighted_average_recall
from serab_byols.probe.results import FewShotResult
from serab_byols.probe.splitting import Plan

MAX_ITERATIONS = 100
"""Of L-BFGS, as in mteb; a fit that has not converged by then is used as it is."""


def few_shot(
    features: np.ndarray, labels: np.ndarray, plan: Plan, shots: int, n_draws: int, seed: int = 0
) -> FewShotResult:
    """Score every draw over all test clips of the plan.

    Args:
        features: float (N, D), used as they are.
        labels: integers, int64 (N,).
        plan: draws are made from ``drawable`` of each split and tested on its test clips.
        shots: clips drawn of each label; of a label with fewer, all.
        n_draws: number of draws.
        seed: of the draws.
    """
    tested = np.concatenate([split.test for split in plan.splits])
    predicted = np.empty((n_draws, len(tested)), dtype=np.int64)
    n_unfinished, end = 0, 0
    for split in plan.splits:
        start, end = end, end + len(split.test)
        for draw, chosen in enumerate(draws(labels, split.drawable, shots, n_draws, seed)):
            regression = _fit(features[chosen], labels[chosen], seed)
            predicted[draw, start:end] = regression.predict(features[split.test])
            n_unfinished += bool(regression.n_iter_.max() >= MAX_ITERATIONS)
    truth = labels[tested]
    accuracies = [float(accuracy_score(truth, of_draw)) for of_draw in predicted]
    uars = [unweighted_average_recall(truth, of_draw) for of_draw in predicted]
    return FewShotResult(
        shots=shots,
        accuracy=float(np.mean(accuracies)),
        accuracy_std=float(np.std(accuracies, ddof=1)),
        uar=float(np.mean(uars)),
        uar_std=float(np.std(uars, ddof=1)),
        accuracies=tuple(accuracies),
        uars=tuple(uars),
        n_fits=n_draws * len(plan.splits),
        n_unfinished=n_unfinished,
    )


def draws(
    labels: np.ndarray, drawable: np.ndarray, shots: int, n_draws: int, seed: int
) -> Iterator[np.ndarray]:
    """Positions of the clips that train, for each draw, int64 (at most shots times labels,).

    The clips are shuffled and the first of every label are taken. The generator is seeded anew for each
    draw, and shuffles what the draw before it left: this is how mteb does it, and with its seed 42 and
    a train and a test part the clips are the same.
    """
    order = drawable.copy()
    for _ in range(n_draws):
        np.random.RandomState(seed).shuffle(order)
        yield order[_first_of_each(labels[order], shots)]


def _first_of_each(labels: np.ndarray, shots: int) -> np.ndarray:
    """Where a label occurs for at most the ``shots``-th time, bool (n,)."""
    is_label = labels[:, None] == np.unique(labels)
    return (is_label & (is_label.cumsum(axis=0) <= shots)).any(axis=1)


def _fit(features: np.ndarray, labels: np.ndarray, seed: int) -> LogisticRegression:
    regression = LogisticRegression(max_iter=MAX_ITERATIONS, random_state=seed)
    # The products are small: threads would wait for each other.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # noted in the result
        return regression.fit(features, labels)


def protocol(shots: int, n_draws: int, seed: int) -> str:
    """What was done, in words that can go into a paper."""
    return (
        f"{shots} training clips a label, drawn {n_draws} times (seed {seed}); features as they are; "
        f"logistic regression, C 1, at most {MAX_ITERATIONS} iterations; mean and standard deviation "
        "over draws of the scores of all test predictions"
    )


def notes(result: FewShotResult, labels: np.ndarray, plan: Plan) -> list[str]:
    """What a reader of the few-shot scores should know."""
    found = []
    if result.n_unfinished:
        found.append(
            f"{result.n_unfinished} of {result.n_fits} few-shot fits stopped at {MAX_ITERATIONS} iterations"
        )
    fewest = min(int(np.unique(labels[split.drawable], return_counts=True)[1].min()) for split in plan.splits)
    if fewest < result.shots:
        found.append(f"few-shot: a label has only {fewest} training clips in a fold, all of them are used")
    return found
