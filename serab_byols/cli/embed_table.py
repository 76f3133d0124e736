"""``serab-byols embed -o OUT.parquet`` or ``OUT.npz``: into one file."""

from __future__ import annotations

import argparse
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import torch

from serab_byols.atomic_write import check_not_an_input
from serab_byols.checkpoint import load_model
from serab_byols.cli.clip_progress import ClipProgress, errors_in_words
from serab_byols.cli.messages import log
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK
from serab_byols.cli.standard_streams import mp3_decoder_silenced
from serab_byols.corpus.embedding import check_corpus_normalization, embed_segments
from serab_byols.corpus.error_table import SEGMENT_COLUMNS, write_error_table
from serab_byols.corpus.listing import Inputs
from serab_byols.corpus.pca import chosen_pca
from serab_byols.corpus.provenance import describe_frames, describe_model
from serab_byols.corpus.segments import Segment
from serab_byols.corpus.tables import TableFormat, check_output, open_table
from serab_byols.corpus.vector_format import VectorFormat
from serab_byols.errors import InvalidInputError, SerabByolsError
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.model import ByolsModel

_Errors = list[tuple[object, ...]]


def embed_into_table(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    output = Path(options.output)
    check_output(output)
    error_table = Path(f"{output}.errors.csv")
    if error_table.is_dir():
        raise InvalidInputError(f"the table of errors would be {error_table}, which is a folder")
    inputs = Inputs(options.inputs)
    check_not_an_input((output, error_table), inputs.named)
    columns = inputs.carried_columns()
    segments = list(inputs)
    if not segments:
        raise InvalidInputError("the lists given name no files")
    check_not_an_input((output, error_table), (segment.path for segment in segments))
    model = load_model(
        options.model,
        options.encoder,
        normalization=options.normalization,
        device=options.device,
    )
    check_corpus_normalization(model)
    metadata = {**describe_model(model), "dtype": options.dtype}  # of the weights as they are stored
    model.to(getattr(torch, options.dtype))
    grid = None
    if options.timestamps:
        grid = FrameGrid(options.frame_duration, options.hop_size, model.sample_rate)
    metadata |= describe_frames(grid, options.dense)
    pca = chosen_pca(options.pca, options.dimensions, metadata)
    if pca is not None:
        metadata["pca"] = pca.describe()
    vectors = VectorFormat(model.embedding_size, options.embedding_dtype, pca)
    table_format = TableFormat(
        vectors, options.timestamps, metadata, columns, options.compression or "snappy"
    )
    errors: _Errors = []
    with mp3_decoder_silenced(), ClipProgress(options.quiet, str(error_table)) as progress:
        progress.start(len(segments), 0, inputs.passed_over)
        n_embedded, n_partial, n_rows = _write_table(
            output, table_format, segments, (model, grid, options.dense), errors, progress
        )
    write_error_table(error_table, errors, SEGMENT_COLUMNS)
    if errors:
        where = f"see {output}.errors.csv"
        written = f"{output} has the rest" if n_embedded else f"{output} was not written"
        log(f"{errors_in_words(len(errors), n_partial, len(segments))} ({where}); {written}")
    if n_embedded and not options.quiet:
        print(f"{output}: {n_rows} rows of {vectors.stored_size} numbers from {n_embedded} clips")
    return EXIT_BAD_FILES if errors else EXIT_OK


class _NothingEmbeddedError(Exception):
    """Leaves the output as it was."""


def _write_table(
    output: Path,
    table_format: TableFormat,
    segments: list[Segment],
    how: tuple[ByolsModel, FrameGrid | None, bool],
    errors: _Errors,
    progress: ClipProgress,
) -> tuple[int, int, int]:
    """Embed and write; returns the number of clips, of partial ones and of rows, and adds to ``errors``."""

    def note(segment: Segment, error: str) -> None:
        errors.append((segment.file, segment.start_s, segment.end_s, error))
        progress.tell(error)

    def on_error(segment: Segment, error: SerabByolsError) -> None:
        note(segment, str(error))
        progress.advance(1)

    model, grid, dense = how
    n_embedded = n_partial = 0
    with suppress(_NothingEmbeddedError), open_table(output, table_format) as table:
        chunks = embed_segments(
            segments, model, grid, dense=dense, on_error=on_error, progress=progress.within
        )
        for index, of_one in groupby(chunks, key=attrgetter("index")):
            for chunk in of_one:
                table.add(chunk.record, segments[index].columns)
                if chunk.warning:
                    note(segments[index], chunk.warning)
                    n_partial += 1
            n_embedded += 1
            progress.advance(1)
        if not n_embedded:
            raise _NothingEmbeddedError
    return n_embedded, n_partial, table.n_rows
