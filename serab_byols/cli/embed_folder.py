"""``serab-byols embed -o DIR/``: into a folder of Parquet files."""

from __future__ import annotations

import argparse

from serab_byols.checkpoint import load_model
from serab_byols.cli.clip_progress import ClipProgress, errors_in_words
from serab_byols.cli.messages import log
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK
from serab_byols.cli.standard_streams import mp3_decoder_silenced
from serab_byols.corpus.dataset.ray_engine import RayEngine
from serab_byols.corpus.dataset.run import ERRORS_FILE, Engine, embed_dataset


def embed_into_folder(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    engine = _engine(options)
    model = load_model(
        options.model, options.encoder, normalization=options.normalization, device=options.device
    )
    errors = f"{options.output.rstrip('/')}/{ERRORS_FILE}"
    with mp3_decoder_silenced(), ClipProgress(options.quiet, errors) as progress:
        summary = embed_dataset(
            options.inputs,
            options.output,
            model,
            timestamps=options.timestamps,
            frame_duration=options.frame_duration,
            hop_size=options.hop_size,
            dense=options.dense,
            dtype=options.dtype,
            part_size=options.part_size,
            compression=options.compression or "snappy",
            embedding_dtype=options.embedding_dtype,
            pca=options.pca,
            dimensions=options.dimensions,
            append=options.append,
            retry_errors=options.retry_errors,
            engine=engine,
            observer=progress,
        )
    if summary.n_errors:
        log(
            f"{errors_in_words(summary.n_errors, summary.n_partial, summary.n_segments)} (see {errors}); "
            f"{summary.location} has the rest"
        )
    if not options.quiet:
        n_clips = summary.n_segments - summary.n_errors + summary.n_partial
        files = "1 file" if summary.n_parts == 1 else f"{summary.n_parts} files"
        print(f"{summary.location}: {n_clips} clips in {files}, {summary.n_embedded} of them embedded now")
    return EXIT_BAD_FILES if summary.n_errors else EXIT_OK


def _engine(options: argparse.Namespace) -> Engine | str:
    if options.engine == "local":
        return "local"
    return RayEngine(
        options.ray_address, n_workers=options.workers, gpus_per_worker=options.gpus_per_worker or 0
    )
