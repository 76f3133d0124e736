"""``serab-byols embed``: audio files into a table."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from serab_byols.cli.embed_folder import embed_into_folder
from serab_byols.cli.embed_table import embed_into_table
from serab_byols.cli.options import (
    EXIT_USAGE,
    Commands,
    add_cache_dir,
    add_device,
    add_frames,
    add_normalization,
)
from serab_byols.corpus.dataset.run import DTYPES, PART_SIZE
from serab_byols.corpus.pca import load_pca
from serab_byols.corpus.tables import COMPRESSIONS
from serab_byols.corpus.vector_format import EMBEDDING_DTYPES
from serab_byols.encoders import ENCODERS
from serab_byols.errors import InvalidInputError
from serab_byols.hear import FRAME_DURATION_MS, HOP_SIZE_MS

ENGINES = ("local", "ray")


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "embed",
        usage="%(prog)s [OPTION ...] -o OUT INPUT [INPUT ...]",
        description="Embed audio files into a table, one row per clip, or per frame with --timestamps. A "
        "corpus of any size goes into a folder: a run that ended early goes on with the same command.",
        examples=(
            "serab-byols embed recordings -o embeddings.parquet",
            "serab-byols embed a.wav b.mp3 -o frames.npz --timestamps --hop-size 100",
            "serab-byols embed list.csv -o embeddings/ --model byols-audiontt-2048 --device cuda",
        ),
        exit_status="0 when all went well, 1 when some files could not be embedded (they are "
        "listed on stderr and in OUT.errors.csv, or DIR/__run/errors.csv), 2 when there is no table.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio files, folders (searched recursively), or lists (.csv, .parquet, .npz) with a column "
        "'path' and optionally 'start' and 'end' in seconds; other columns go into the table",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="OUT.parquet, OUT.npz, or DIR/ for a folder of Parquet files",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    _add_model_options(parser.add_argument_group("model"))
    _add_frame_options(parser.add_argument_group("frames"))
    _add_computation_options(parser.add_argument_group("computation"))
    _add_storage_options(parser)
    parser.set_defaults(run=_embed, error_status=EXIT_USAGE)


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        default="",
        metavar="CKPT",
        help="checkpoint file, or a name as `serab-byols list` shows (default: the bundled)",
    )
    group.add_argument(
        "--encoder",
        choices=list(ENCODERS),
        help="the bundled weights of this encoder; with --model, check that the checkpoint holds it",
    )
    add_normalization(group)
    add_cache_dir(group)


def _add_frame_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--timestamps", action="store_true", help="one row per frame")
    add_frames(group)


def _add_computation_options(group: argparse._ArgumentGroup) -> None:
    add_device(group)
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="precision of the encoder; half precision is faster on processors and GPUs that support it "
        "(default: %(default)s)",
    )


def _add_storage_options(parser: argparse.ArgumentParser) -> None:
    storage = parser.add_argument_group("what is stored")
    storage.add_argument(
        "--embedding-dtype",
        choices=EMBEDDING_DTYPES,
        default="float32",
        help="precision of the stored embeddings (default: %(default)s)",
    )
    storage.add_argument(
        "--pca", metavar="FILE", help="store principal components, from a file that `serab-byols pca` wrote"
    )
    storage.add_argument(
        "--dimensions",
        type=int,
        metavar="N",
        help="store N principal components: of --pca, or of those that come with the default weights",
    )
    storage.add_argument("--compression", choices=COMPRESSIONS, help="of Parquet files (default: snappy)")
    folder = parser.add_argument_group("a folder of Parquet files (-o DIR/)")
    folder.add_argument(
        "--part-size",
        type=int,
        metavar="N",
        help=f"clips in a file; what is lost at most when a run is killed (default: {PART_SIZE})",
    )
    folder.add_argument(
        "--append", action="store_true", help="embed what the inputs have and the folder has not"
    )
    folder.add_argument(
        "--retry-errors", action="store_true", help="try those clips again that could not be embedded"
    )
    _add_engine_options(parser)


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("several machines (-o DIR/ in a folder that all of them share)")
    engine.add_argument(
        "--engine", choices=ENGINES, default="local", help="who makes the files (default: %(default)s)"
    )
    engine.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="auto, HOST:PORT, ray://HOST:10001, or local to start Ray on this machine (default: "
        "RAY_ADDRESS, what runs on this machine, or local)",
    )
    engine.add_argument(
        "--workers", type=int, metavar="N", help="processes with a model (default: as there is room for)"
    )
    engine.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="G",
        help="GPUs of each worker, such as 1 or 0.5 (default: 0, to embed on CPUs)",
    )


def _embed(options: argparse.Namespace) -> int:
    if not options.timestamps:
        _check_frame_options(options)
    _check_engine_options(options)
    options.pca = None if options.pca is None else load_pca(options.pca)
    if _is_folder(options.output):
        return embed_into_folder(options)
    _check_no_folder_options(options)
    return embed_into_table(options)


def _is_folder(output: str) -> bool:
    return output.endswith(("/", os.sep)) or os.path.isdir(output)


def _check_frame_options(options: argparse.Namespace) -> None:
    """Options of frames do nothing for scenes."""
    default = (False, FRAME_DURATION_MS, HOP_SIZE_MS)
    if (options.dense, options.frame_duration, options.hop_size) != default:
        raise InvalidInputError("--dense, --frame-duration and --hop-size need --timestamps")


def _check_engine_options(options: argparse.Namespace) -> None:
    if options.engine == "local":
        given = _first_given(options, "ray_address", "workers", "gpus_per_worker")
        if given:
            raise InvalidInputError(f"{given} needs --engine ray")
    elif str(options.device) != "cpu":
        raise InvalidInputError(
            "--device is for --engine local: for GPUs of Ray's workers use --gpus-per-worker"
        )


def _check_no_folder_options(options: argparse.Namespace) -> None:
    given = _first_given(options, "part_size", "append", "retry_errors")
    given = given or ("--engine ray" if options.engine == "ray" else None)
    if given:
        raise InvalidInputError(
            f"{given} is for a folder of Parquet files: end the output in a slash, as in -o embeddings/"
        )
    if options.compression and Path(options.output).suffix != ".parquet":
        raise InvalidInputError("--compression is for Parquet")


def _first_given(options: argparse.Namespace, *names: str) -> str | None:
    """The first of these options that is not as it is by default, as it is typed."""
    given = (name for name in names if getattr(options, name) not in (None, False))
    name = next(given, None)
    return name and f"--{name.replace('_', '-')}"
