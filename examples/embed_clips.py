"""Embed the bundled clips and show what is in the table: what ``make demo`` runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet

import serab_byols
from serab_byols.errors import CheckpointNotFoundError

CLIPS = Path(__file__).parent / "clips"
OUTPUT = Path(__file__).parent.parent / "demo-output"


def weights() -> list[str]:
    """Options for the command line: none for the default weights, else a file with random ones."""
    try:
        serab_byols.load_model()
    except CheckpointNotFoundError:
        path = OUTPUT / "random-weights.safetensors"
        model = serab_byols.create_model("default", d=512)
        serab_byols.save_checkpoint(model, path, training_facts={"note": "random, never trained"})
        print("NOTE: this version carries no trained weights yet. The demo uses RANDOM weights:")
        print("      the table shows how things work, its numbers mean little.")
        return ["--model", str(path)]
    return []


def main() -> int:
    OUTPUT.mkdir(exist_ok=True)
    table = OUTPUT / "embeddings.parquet"
    options = weights()
    print("$", " ".join(["serab-byols embed", str(CLIPS), "-o", str(table), *options]), flush=True)
    command = [sys.executable, "-m", "serab_byols", "embed", str(CLIPS), "-o", str(table), *options]
    subprocess.run(command, check=True)

    columns = pyarrow.parquet.read_table(table).to_pydict()
    embeddings = np.array(columns["embedding"])
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    names = [Path(file).stem for file in columns["file"]]
    print("\ncosine similarity of the clips:")
    print(" " * 12 + "".join(f"{name:>12}" for name in names))
    for name, row in zip(names, directions @ directions.T):
        print(f"{name:12}" + "".join(f"{value:12.3f}" for value in row))
    print(f"\nThe table is {table}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
