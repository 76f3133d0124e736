"""Writes default_embeddings.npz: the example clips by the default weights. Run when the weights change."""

from pathlib import Path

import numpy as np

import serab_byols

HERE = Path(__file__).parent
CLIPS = HERE.parent.parent / "examples" / "clips"


def main() -> None:
    model = serab_byols.load_model()
    records = serab_byols.embed_files(sorted(CLIPS.glob("*.flac")), model)
    embeddings = {Path(record.file).name: record.embedding for record in records}
    np.savez_compressed(HERE / "default_embeddings.npz", **embeddings)


if __name__ == "__main__":
    main()
