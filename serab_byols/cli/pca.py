"""``serab-byols pca``: principal components of a table's embeddings, for ``embed --pca``."""

from __future__ import annotations

import argparse

from serab_byols.atomic_write import check_not_an_input
from serab_byols.cli.options import EXIT_OK, EXIT_USAGE, Commands
from serab_byols.corpus.pca import fit_pca, save_pca
from serab_byols.corpus.reading_tables import EmbeddingTable
from serab_byols.paths import as_path


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "pca",
        help="find the principal components of embeddings",
        description="Find the directions in which the embeddings of a table vary most. "
        "`serab-byols embed --pca` then stores these instead of all dimensions.",
        examples=(
            "serab-byols pca embeddings/ -o speech.pca.safetensors",
            "serab-byols embed more/ -o more-embeddings/ --pca speech.pca.safetensors --dimensions 64",
        ),
        exit_status="0 when all went well, 2 when there is no file.",
    )
    parser.add_argument("table", metavar="TABLE", help="a table or folder that `serab-byols embed` wrote")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="OUT.safetensors")
    parser.add_argument(
        "--dimensions",
        type=int,
        default=128,
        metavar="N",
        help="components to keep; fewer can be taken later (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no summary")
    parser.set_defaults(run=_pca, error_status=EXIT_USAGE)


def _pca(options: argparse.Namespace) -> int:
    table = EmbeddingTable(options.table)
    check_not_an_input([as_path(options.output, "the output")], table.files)
    pca = fit_pca(table.blocks(), options.dimensions, table.metadata)
    path = save_pca(pca, options.output)
    if not options.quiet:
        print(f"{path}: {len(pca.components)} components, {100 * pca.explained.sum():.1f} % of the variance")
    return EXIT_OK
