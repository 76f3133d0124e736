"""``serab-byols hear evaluate``: a module's scores on HEAR tasks."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from serab_byols.atomic_write import atomic_write
from serab_byols.cli.messages import log
from serab_byols.cli.options import EXIT_OK, EXIT_USAGE, add_device
from serab_byols.display.printable import printable
from serab_byols.display.stage_bar import StageBar
from serab_byols.errors import CheckpointNotFoundError, InvalidInputError
from serab_byols.hear_benchmark.predictor_grid import GRIDS, N_GRID_POINTS, SEED

SCORES_FILE = "scores.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Score a module of the HEAR common API on task folders, as HEAR's preprocessing makes and publishes "
        "them (and serab-byols hear make-task), by the protocol of HEAR's own kit: embeddings of clips or "
        "timestamps, a grid of shallow predictors chosen on the validation split, scores of the test split."
    )
    parser.epilog = (
        "An evaluation that was killed goes on where it was, when it is started again with the same OUT. "
        "Exit status: 0 when all went well, 2 when there is no result."
    )
    parser.add_argument("module", metavar="MODULE", help="name to import, such as serab_byols")
    parser.add_argument(
        "--tasks", type=Path, required=True, metavar="DIR", help="folder of task folders, or one of them"
    )
    parser.add_argument(
        "--task", action="append", metavar="NAME", help="only this task; may be repeated (default: all)"
    )
    parser.add_argument("--model", metavar="FILE", help="weights, as the module's load_model takes them")
    parser.add_argument(
        "--model-options", type=_options, default={}, metavar="JSON", help="keyword arguments of load_model"
    )
    parser.add_argument(
        "--grid", choices=list(GRIDS), default="default", help="of hyperparameters (default: %(default)s)"
    )
    parser.add_argument(
        "--grid-points",
        type=int,
        default=N_GRID_POINTS,
        metavar="N",
        help="how many points of the grid to try, drawn at random (default: %(default)s, as HEAR does)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=SEED,
        help="of that draw, initial weights and dropout (default: %(default)s, as in HEAR's kit)",
    )
    add_device(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help=f"folder for embeddings, predictors and {SCORES_FILE} (default: the table only)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    parser.set_defaults(run=_evaluate, error_status=EXIT_USAGE)


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(options, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return options


def _evaluate(options: argparse.Namespace) -> int:
    from serab_byols.hear_benchmark.embedding_module import HearModule
    from serab_byols.hear_benchmark.score_table import as_json, as_table
    from serab_byols.hear_benchmark.task_evaluation import Protocol, evaluate_tasks
    from serab_byols.hear_benchmark.task_folder import find_tasks, read_task

    tasks = [read_task(folder) for folder in find_tasks(options.tasks, options.task or ())]
    _check_output(options.output, options.tasks)
    request = {"model": _weights(options.model), "model_options": options.model_options}
    module = HearModule(options.module, options.model, options.model_options, options.device)
    protocol = Protocol(options.grid, options.grid_points, options.seed)
    show_bar = not options.quiet and sys.stderr.isatty()
    folder = nullcontext(options.output) if options.output else tempfile.TemporaryDirectory()
    with folder as out, closing(StageBar(not show_bar)) as bar:
        results = evaluate_tasks(module, tasks, Path(out), protocol, request, bar)
    if not options.quiet:
        for line in as_table(results).splitlines():
            print(printable(line))
    if options.output is not None:
        asked = {"module": options.module, **request, **vars(protocol)}
        with atomic_write(options.output / SCORES_FILE) as scratch:
            text = json.dumps(as_json(results, asked), indent=2, allow_nan=False)
            scratch.write_text(text + "\n", encoding="utf-8")
        if not options.quiet:
            log(f"wrote {options.output / SCORES_FILE}")
    return EXIT_OK


def _check_output(output: Path | None, tasks: Path) -> None:
    if output is None:
        return
    if output.exists() and not output.is_dir():
        raise InvalidInputError(f"the output is a folder, and {output} is a file")
    if output.resolve() == tasks.resolve() or tasks.resolve() in output.resolve().parents:
        raise InvalidInputError(f"the output {output} is in the folder of tasks: choose another place for it")


def _weights(path: str | None) -> dict[str, str] | None:
    """What tells weights from others: their bytes, if it is a file."""
    if path is None:
        return None
    if not Path(path).is_file():
        if Path(path).suffix:
            raise CheckpointNotFoundError(f"the weights {path} do not exist")
        return {"name": path}
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"sha256": digest.hexdigest()}
