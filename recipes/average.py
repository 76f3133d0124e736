"""The mean of two encoders' weights: ``python recipes/average.py FIRST SECOND OUT.safetensors``.

SECOND is FIRST after a training, so that the way between them is flat (Wortsman et al., 2022,
https://arxiv.org/abs/2203.05482). Statistics and facts are those of SECOND.
"""

from __future__ import annotations

import sys

import torch

import serab_byols


def main() -> None:
    """Load, average, save."""
    first, second, out = sys.argv[1:]
    before, model = serab_byols.load_model(first), serab_byols.load_model(second)
    with torch.no_grad():
        others = before.encoder.state_dict()
        for name, values in model.encoder.state_dict().items():
            if values.is_floating_point():
                values.lerp_(others[name], 0.5)
    facts = {**(model.training_facts or {}), "averaged_with": first}
    serab_byols.save_checkpoint(model, out, training_facts=facts)


if __name__ == "__main__":
    main()
