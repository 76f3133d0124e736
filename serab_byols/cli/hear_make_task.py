"""``serab-byols hear make-task``: labelled clips or events as a HEAR task folder."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from serab_byols.cli.messages import FileErrors, log
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK, EXIT_USAGE
from serab_byols.cli.standard_streams import mp3_decoder_silenced
from serab_byols.display.printable import printable
from serab_byols.display.stage_bar import StageBar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make a HEAR task folder of a CSV file, for hear evaluate or for HEAR's own kit: audio as mono "
        "16-bit WAV of one length, labels or events, and the metadata that HEAR's preprocessing writes."
    )
    parser.epilog = (
        "Exit status: 0 when all went well, 1 when some clips could not be read (the task is made without "
        "them), 2 when there is no task."
    )
    parser.add_argument(
        "manifest",
        type=Path,
        metavar="MANIFEST",
        help="CSV file with the columns 'path' (relative to it) and 'label', one row for each label of a "
        "clip; optionally 'start' and 'end' in seconds, and what splits the clips: 'fold', or 'split' "
        "(train, valid, test); 'group' keeps clips together in random splits",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of tasks; the task is made in it",
    )
    parser.add_argument("--name", required=True, help="of the task")
    parser.add_argument("--task-version", default="v1", metavar="VERSION", help="of the task (default: v1)")
    parser.add_argument("--task", metavar="TASK", help="only rows with this in the column 'task'")
    parser.add_argument(
        "--events",
        action="store_true",
        help="'start' and 'end' are of events in the file (default: of the segment that is the clip)",
    )
    parser.add_argument(
        "--multilabel", action="store_true", default=None, help="even if every clip has one label"
    )
    parser.add_argument(
        "--duration",
        type=_duration,
        metavar="SECONDS",
        help="of every file; clips are cut at the end or filled with zeros (default: that of the longest "
        "clip); 'original' keeps their lengths, which makes embedding slower",
    )
    parser.add_argument(
        "--rate",
        type=int,
        action="append",
        metavar="HZ",
        help="sample rate of the files; may be repeated (default: 48000, which hear evaluate resamples; "
        "HEAR's own kit needs the rate of the module)",
    )
    parser.add_argument(
        "--score",
        action="append",
        metavar="SCORE",
        help="of the evaluation, the first one selects; may be repeated (default: those of HEAR's tasks)",
    )
    parser.add_argument("--folds", type=int, metavar="N", help="make N random folds")
    parser.add_argument("--seed", type=int, default=0, help="of random splits (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=_make_task, error_status=EXIT_USAGE)


def _duration(text: str) -> float | str:
    return text if text == "original" else float(text)


def _make_task(options: argparse.Namespace) -> int:
    from serab_byols.errors import SerabByolsError
    from serab_byols.hear_benchmark.task_manifest import SourceClip, read_task_manifest
    from serab_byols.hear_benchmark.task_writing import TaskSettings, write_task

    settings = TaskSettings(
        name=options.name,
        version=options.task_version,
        events=options.events,
        multilabel=options.multilabel,
        duration_s=options.duration,
        rates_hz=tuple(dict.fromkeys(options.rate or [48000])),
        evaluation=tuple(dict.fromkeys(options.score or ())),
        n_folds=options.folds,
        seed=options.seed,
    )
    clips = read_task_manifest(options.manifest, options.events, options.task)
    errors = FileErrors()
    with mp3_decoder_silenced(), closing(StageBar(options.quiet or not sys.stderr.isatty())) as bar:

        def on_error(clip: SourceClip, error: SerabByolsError) -> None:
            errors.add(str(error))

        task = write_task(clips, options.output, settings, on_error, bar)
    errors.finish()
    if not options.quiet:
        print(printable(f"{task.folder}"))
        counts = ", ".join(f"{split} {n}" for split, n in task.n_files.items())
        kind = "{prediction_type} {embedding_type}".format(**task.metadata)
        print(printable(f"{kind} task, {task.metadata['sample_duration']} s: {counts} ({task.split})"))
        for note in task.notes:
            print(printable(f"note: {note}"))
    if errors.n:
        log(f"{errors.n} clips could not be read; the task is without them")
    return EXIT_BAD_FILES if errors.n else EXIT_OK
