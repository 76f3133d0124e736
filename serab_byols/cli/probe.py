"""``serab-byols probe``: whether an embedding suits labelled data."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from types import ModuleType

from serab_byols.atomic_write import atomic_write, check_not_an_input, check_replaceable
from serab_byols.cli.messages import FileErrors, log
from serab_byols.cli.options import (
    EXIT_BAD_FILES,
    EXIT_OK,
    EXIT_USAGE,
    Commands,
    add_cache_dir,
    add_device,
    add_normalization,
)
from serab_byols.cli.standard_streams import mp3_decoder_silenced
from serab_byols.corpus.segments import Segment
from serab_byols.display.printable import printable
from serab_byols.display.stage_bar import StageBar
from serab_byols.errors import InvalidInputError, SerabByolsError
from serab_byols.probe import ProbeResult, as_json, as_text, draw_confusion, probe
from serab_byols.probe.confusion_plot import check_can_draw
from serab_byols.probe.features import HearModule
from serab_byols.probe.manifest import SPLIT_COLUMNS
from serab_byols.probe.splitting import N_DRAWS, N_FOLDS


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "probe",
        usage="%(prog)s [OPTION ...] MANIFEST",
        description="Embed labelled clips and train a linear classifier on the embeddings: standardised "
        "features, logistic regression, its C chosen on inner folds that keep groups whole. The table "
        "says what was done.",
        examples=(
            "serab-byols probe clips.csv",
            "serab-byols probe clips.csv --model mine.safetensors --random --log-mel-statistics",
            "serab-byols probe clips.csv --by group --json scores.json --confusion pictures",
        ),
        exit_status="0 when all went well, 1 when some files could not be embedded (they are "
        "listed on stderr, and the scores are without them), 2 when there is no result.",
    )
    parser.add_argument(
        "manifest",
        metavar="MANIFEST",
        help="CSV file with the columns 'path' (relative to it) and 'label', and optionally 'start' and "
        "'end' in seconds, 'task', and what splits the clips: 'fold', 'group' (such as the speaker) or "
        "'split' (train, valid, test)",
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="CKPT",
        help="checkpoint file or name of weights; may be repeated (default: the bundled weights)",
    )
    add_cache_dir(parser)
    parser.add_argument(
        "--hear-module",
        action="append",
        default=[],
        metavar="NAME[=FILE]",
        help="also another module of the HEAR common API, installed or in the current folder, with weights "
        "for its load_model; may be repeated",
    )
    parser.add_argument(
        "--random", action="store_true", help="also the same architectures with random weights"
    )
    parser.add_argument(
        "--log-mel-statistics", action="store_true", help="also statistics of log-mels and MFCCs over time"
    )
    parser.add_argument(
        "--task", action="append", metavar="TASK", help="only this task; may be repeated (default: all)"
    )
    parser.add_argument(
        "--by",
        choices=["auto", *SPLIT_COLUMNS, "clips"],
        default="auto",
        help="what splits the clips: a column, or random folds of single clips (default: the first of "
        f"{', '.join(SPLIT_COLUMNS)} that there is, else clips)",
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=N_FOLDS,
        metavar="N",
        help="number of random folds where no column gives them (default: %(default)s)",
    )
    parser.add_argument(
        "--c", type=float, metavar="C", help="fix the regression's C (default: chosen in every fold)"
    )
    parser.add_argument(
        "--shots",
        type=int,
        metavar="N",
        help="also few-shot scores: logistic regression on N clips of each label; 8 is MAEB's protocol",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=N_DRAWS,
        metavar="N",
        help="how often these clips are drawn (default: %(default)s)",
    )
    add_normalization(parser)
    add_device(parser)
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of random folds, few-shot draws, random weights and intervals (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers to OUT, as JSON")
    parser.add_argument(
        "--confusion", type=Path, metavar="FOLDER", help="write confusion matrices into FOLDER, as PNG"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    parser.set_defaults(run=_probe, error_status=EXIT_USAGE)


def _probe(options: argparse.Namespace) -> int:
    _check_outputs(options)
    skipped: list[tuple[str, str]] = []

    errors = FileErrors()
    with mp3_decoder_silenced(), closing(StageBar(options.quiet or not sys.stderr.isatty())) as bar:

        def on_error(segment: Segment, error: SerabByolsError) -> None:
            skipped.append((segment.file, str(error)))
            errors.add(str(error))

        results = probe(
            options.manifest,
            options.model or [""],
            hear_modules=_hear_modules(options.hear_module),
            random=options.random,
            log_mel_statistics=options.log_mel_statistics,
            tasks=options.task or [],
            by=options.by,
            n_folds=options.folds,
            c=options.c,
            shots=options.shots,
            n_draws=options.draws,
            normalization=options.normalization,
            device=options.device,
            seed=options.seed,
            on_error=on_error,
            on_progress=bar,
        )
    errors.finish(options.json)
    if not options.quiet:
        for line in as_text(results).splitlines():
            print(printable(line))
    _write_outputs(options, results, skipped)
    if skipped:
        log(f"{len(skipped)} clips could not be embedded; the scores are without them")
    return EXIT_BAD_FILES if skipped else EXIT_OK


def _hear_modules(options: list[str]) -> dict[str, HearModule]:
    from serab_byols.hear_benchmark.hear_module import import_hear_module

    modules: dict[str, HearModule] = {}
    for option in options:
        name, _, file = option.partition("=")
        try:
            module = import_hear_module(name)
        except ImportError as error:
            raise InvalidInputError(f"the module {name!r} cannot be imported: {error}") from error
        modules[option] = _WithWeights(module, file) if file else module
    return modules


class _WithWeights:
    """A HEAR module whose model is that of a file."""

    def __init__(self, module: ModuleType, file: str) -> None:
        self.load_model = partial(module.load_model, file)
        self.get_scene_embeddings = module.get_scene_embeddings


def _check_outputs(options: argparse.Namespace) -> None:
    """Check before the work that its results can be written."""
    check_not_an_input([options.json], [options.manifest, *(options.model or [])])
    for path in (options.json, options.confusion):
        if path is not None and not os.access(path.parent, os.W_OK):
            raise InvalidInputError(f"the folder {path.parent} does not exist or cannot be written to")
    if options.json is not None:
        check_replaceable(options.json)
    if options.confusion is not None:
        if options.confusion.exists() and not options.confusion.is_dir():
            raise InvalidInputError(f"confusion matrices go into a folder, and {options.confusion} is a file")
        check_can_draw()


def _write_outputs(
    options: argparse.Namespace, results: list[ProbeResult], skipped: list[tuple[str, str]]
) -> None:
    if options.json is not None:
        report = as_json(results, manifest=options.manifest, skipped=skipped)
        with atomic_write(options.json) as scratch:
            scratch.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if options.confusion is not None:
        options.confusion.mkdir(exist_ok=True)
        taken: set[str] = set()
        for result in results:
            draw_confusion(result, options.confusion / _file_name(result, taken))


def _file_name(result: ProbeResult, taken: set[str]) -> str:
    """A name that is valid on every file system and that no other result of this run has."""
    stem = re.sub(r"[^\w.=-]+", "-", f"{result.task}-{result.features}", flags=re.ASCII).strip("-.")
    name, number = f"{stem}.png", 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}.png"
    taken.add(name.lower())
    return name
