"""A wider AudioNTT that holds a narrower one: ``python recipes/widen.py NARROW OUT.safetensors WIDTH``.

The convolutions are those of the narrow encoder, and so are the first units of both linear layers, which see
no others. The first numbers of the embedding are therefore the narrow encoder's; the others come from random
weights on trained convolutions. A training begins with it (``serab-byols pretrain --init``).
"""

from __future__ import annotations

import sys

import torch

import serab_byols
from serab_byols.encoders.audiontt import AudioNTT

SEED = 0


def widened(narrow: AudioNTT, width: int) -> AudioNTT:
    """The wide encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        wide = AudioNTT(d=width)
    wide.features.load_state_dict(narrow.features.state_dict())
    d = narrow.embedding_size
    with torch.no_grad():
        for ours, theirs in zip(wide.fc, narrow.fc):
            if isinstance(ours, torch.nn.Linear) and isinstance(theirs, torch.nn.Linear):
                n_inputs = theirs.weight.shape[1]
                ours.weight[:d] = 0
                ours.weight[:d, :n_inputs] = theirs.weight
                ours.bias[:d] = theirs.bias
    return wide


def main() -> None:
    """Load, widen, save."""
    narrow, out, width = sys.argv[1:]
    model = serab_byols.load_model(narrow)
    if not isinstance(model.encoder, AudioNTT) or int(width) < model.embedding_size:
        sys.exit(f"{narrow} is no AudioNTT of at most d={width}")
    encoder = widened(model.encoder, int(width))
    wide = serab_byols.ByolsModel(encoder, model.frontend, statistics=model.statistics)
    serab_byols.save_checkpoint(
        wide, out, training_facts={**(model.training_facts or {}), "widened_from": narrow}
    )


if __name__ == "__main__":
    main()
