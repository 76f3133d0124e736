"""What fewer dimensions and fewer bits cost: accuracy of the probe, and neighbours that stay the same.

Usage: python benchmarks/small_vectors.py MANIFEST.csv EMBEDDINGS/ PCA.safetensors

MANIFEST is a probe's; EMBEDDINGS is the folder that ``serab-byols embed MANIFEST.csv -o EMBEDDINGS/`` wrote;
the components are those of other recordings (``serab-byols pca``). Prints a table in Markdown.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pandas

from serab_byols.corpus.pca import load_pca
from serab_byols.corpus.vector_format import VectorFormat
from serab_byols.probe.evaluation import evaluate
from serab_byols.probe.manifest import Task, read_manifest
from serab_byols.probe.splitting import make_plan

N_NEIGHBOURS = 10
SIZES = (256, 128, 64, 32)


def formats(size: int, pca_path: str) -> Iterator[tuple[str, VectorFormat]]:
    """Ways to store a vector, by name."""
    for dtype in ("float32", "float16", "int8"):
        yield f"{size}, {dtype}", VectorFormat(size, dtype)
    pca = load_pca(pca_path)
    for n in SIZES:
        if n <= len(pca.components):
            yield f"{n} components, float32", VectorFormat(size, "float32", pca.first(n))
            yield f"{n} components, int8", VectorFormat(size, "int8", pca.first(n))


def restored(vectors: np.ndarray, vector_format: VectorFormat) -> np.ndarray:
    """What a reader of the table gets, float32 (n, N)."""
    stored, scale = vector_format.store(vectors)
    return stored.astype(np.float32) * scale[:, None]


def nearest(vectors: np.ndarray) -> np.ndarray:
    """Indices of the nearest neighbours of each vector by cosine similarity, (n, 10)."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argpartition(-similarity, N_NEIGHBOURS, axis=1)[:, :N_NEIGHBOURS]


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact neighbours that are found."""
    return float(np.mean([len({*a} & {*b}) / N_NEIGHBOURS for a, b in zip(found, exact)]))


def main(arguments: list[str]) -> None:
    manifest, folder, pca_path = arguments
    table = pandas.read_parquet(folder)
    of_file = dict(zip(table["file"], np.stack(table["embedding"])))
    tasks = [
        task.without([s for s in task.segments if s.file not in of_file]) for task in read_manifest(manifest)
    ]
    vectors = np.stack([of_file[segment.file] for task in tasks for segment in task.segments])
    exact = nearest(vectors)
    print(f"| stored | bytes | {' | '.join(task.name for task in tasks)} | recall@{N_NEIGHBOURS} |")
    print(f"|---|---|{'---|' * (len(tasks) + 1)}")
    for name, vector_format in formats(vectors.shape[1], pca_path):
        kept = restored(vectors, vector_format)
        n_bytes = vector_format.stored_size * np.dtype(vector_format.dtype).itemsize
        n_bytes += 4 * vector_format.has_scale
        scores = [f"{accuracy(task, features):.3f}" for task, features in split(tasks, kept)]
        print(
            f"| {name} | {n_bytes} | {' | '.join(scores)} | {recall(nearest(kept), exact):.3f} |", flush=True
        )


def split(tasks: list[Task], vectors: np.ndarray) -> Iterator[tuple[Task, np.ndarray]]:
    """Tasks with their vectors."""
    first = 0
    for task in tasks:
        yield task, vectors[first : first + len(task.segments)]
        first += len(task.segments)


def accuracy(task: Task, features: np.ndarray) -> float:
    """Of the probe with its default protocol."""
    return evaluate(task, make_plan(task), features, name="", description={}).accuracy


if __name__ == "__main__":
    main(sys.argv[1:])
