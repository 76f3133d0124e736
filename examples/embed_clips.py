"""Embed the bundled clips and show what is in the table: what ``make demo`` runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet

CLIPS = Path(__file__).parent / "clips"
OUTPUT = Path(__file__).parent.parent / "demo-output"


def main() -> int:
    OUTPUT.mkdir(exist_ok=True)
    table = OUTPUT / "embeddings.parquet"
    print("$", " ".join(["serab-byols embed", str(CLIPS), "-o", str(table)]), flush=True)
    command = [sys.executable, "-m", "serab_byols", "embed", str(CLIPS), "-o", str(table)]
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
