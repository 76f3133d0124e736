"""Writes heareval.json: what heareval 2021.1.3 makes of tiny tasks from our initial weights, without dropout.

``PYTHONPATH=tests python tests/golden/make_heareval.py tests/golden/heareval.json``, in the environment that
docs/hear.md describes, with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1. But for random numbers everything is the
kit's: it embeds, draws its grid, trains, stops early, chooses and tests.
"""

import json
import logging
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import heareval.predictions.task_predictions as kit
import numpy as np
import torch
from hear_task_makers import GOLDEN_TASKS, task_folder, write_module
from heareval.embeddings.task_embeddings import Embedding, task_embeddings

from serab_byols.hear_benchmark.predictor_grid import SEED, GridPoint
from serab_byols.hear_benchmark.predictor_stack import _initial_weights

N_POINTS = 8
LEFT_OUT = ("time_in_min", "test_score", "test_segment_1s_er_error_rate")
"""Of the kit's results: the latter two are there under another name as well."""

INITIALIZATIONS = {getattr(torch.nn.init, name): name for name in ("xavier_uniform_", "xavier_normal_")}


class KitWithOurWeights:
    """``heareval``'s predictions, each predictor with the initial weights that ours has.

    Attributes:
        grid: best validation score and its epoch of each grid point, in the order of their training.
    """

    def __init__(self, seed: int = SEED) -> None:
        self.seed = seed
        self.n_trained = 0
        self.grid: list[dict] = []
        self._plain_train = kit.task_predictions_train
        self._plain_network = kit.FullyConnectedPrediction
        kit.NUM_WORKERS = 0  # loads the same rows in the same order, without processes
        for grid in (kit.PARAM_GRID, kit.FAST_PARAM_GRID, kit.FASTER_PARAM_GRID):
            grid["dropout"] = [0.0]
        kit.task_predictions_train = self._train
        kit.FullyConnectedPrediction = self._network

    def predict(self, embeddings: Path, grid: str) -> dict:
        """The kit's test scores of a folder of its embeddings."""
        self.n_trained, self.grid = 0, []
        n_features = json.loads(next(embeddings.glob("*.embedding-dimensions.json")).read_text())[1]
        kit.task_predictions(
            embeddings, n_features, N_POINTS, None, True, True, grid, logging.getLogger("heareval")
        )
        return json.loads((embeddings / "test.predicted-scores.json").read_text())

    def _train(self, **arguments):
        result = self._plain_train(**arguments)
        self.n_trained += 1
        if self.n_trained <= N_POINTS:
            self.grid.append({"validation_score": result.validation_score, "epoch": result.epoch})
        return result

    def _network(self, n_features, n_labels, prediction_type, conf):
        network = self._plain_network(n_features, n_labels, prediction_type, conf)
        fold, i = (0, self.n_trained) if self.n_trained < N_POINTS else (self.n_trained - N_POINTS + 1, 0)
        seed = int(np.random.SeedSequence((self.seed, fold, i)).generate_state(1)[0])
        point = GridPoint(
            conf["hidden_layers"], conf["hidden_dim"], initialization=INITIALIZATIONS[conf["initialization"]]
        )
        sizes = [n_features, *[point.hidden_dim] * point.hidden_layers, n_labels]
        weights = _initial_weights(point, seed, sizes)
        layers = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
        for k, layer in enumerate(layers):
            layer.weight.data.copy_(weights[f"{k}.weight"].T)
            layer.bias.data.copy_(weights[f"{k}.bias"])
            layer.bias.requires_grad_(layer is layers[-1])  # before a batch norm its gradient is rounding
        return network


def main():
    out = Path(sys.argv[1]).resolve()
    kit_predictions = KitWithOurWeights()
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path.insert(0, folder)
        write_module(Path(folder))
        for name, (kind, arguments) in GOLDEN_TASKS.items():
            task = task_folder(Path(folder, "tasks", name), kind, **arguments)
            embeddings = Path(folder, "embeddings", name)
            task_embeddings(Embedding("bandmodule"), task, embeddings)
            scores = kit_predictions.predict(embeddings, "faster")
            tested = {split: of_split for split, of_split in scores.items() if "epoch" in of_split}
            for of_split in tested.values():
                for left_out in LEFT_OUT:
                    of_split.pop(left_out, None)
            cases[name] = {
                "grid": kit_predictions.grid,
                "scores": tested,
                "postprocessing": dict(scores["postprocessing"]),
            }
    content = {"heareval": version("heareval"), "cases": cases}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
