"""``serab-byols hear validate``: every rule of the HEAR common API, one line each."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from serab_byols._version import __version__
from serab_byols.atomic_write import atomic_write, check_not_an_input, check_replaceable
from serab_byols.cli.messages import log
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK, EXIT_USAGE, add_device
from serab_byols.display.printable import printable
from serab_byols.hear_benchmark.validation import RULES, Verdict, succeeded, validate

NAME_WIDTH = max(len(rule.name) for rule in RULES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "exit status: 0 when no rule is broken and the embeddings could be looked at, 1 when not, "
        "2 when the command was used wrongly."
    )
    parser.add_argument(
        "module", metavar="MODULE", help="name of the module, installed or in the current folder"
    )
    parser.add_argument(
        "--model", metavar="FILE", help="weights to give to its load_model (default: call it without)"
    )
    add_device(parser)
    parser.add_argument(
        "--long", action="store_true", help="also 20 minutes of audio within 16 GiB, in a process of its own"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the verdicts to OUT, as JSON")
    parser.add_argument("--quiet", action="store_true", help="no lines for rules that are kept or skipped")
    parser.set_defaults(run=_validate, error_status=EXIT_USAGE)


def _validate(options: argparse.Namespace) -> int:
    check_not_an_input([options.json], [options.model] if options.model else [])
    if options.json is not None:
        check_replaceable(options.json)
    verdicts = []
    for verdict in validate(options.module, options.model, device=options.device, long=options.long):
        verdicts.append(verdict)
        if not options.quiet or verdict.outcome == "failed":
            print(_line(verdict), flush=True)
    if options.json is not None:
        report = {
            "module": options.module,
            "model": options.model,
            "device": str(options.device),
            "serab-byols": __version__,
            "valid": succeeded(verdicts),
            "rules": [asdict(verdict) for verdict in verdicts],
        }
        with atomic_write(options.json) as scratch:
            scratch.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    n_failed = sum(verdict.outcome == "failed" for verdict in verdicts)
    if succeeded(verdicts):
        return EXIT_OK
    rules = "1 rule" if n_failed == 1 else f"{n_failed} rules"
    log(f"{options.module} {f'breaks {rules}' if n_failed else 'could not be validated'}")
    return EXIT_BAD_FILES


def _line(verdict: Verdict) -> str:
    what = f"{verdict.states}: {verdict.detail}" if verdict.outcome == "failed" else verdict.detail
    return f"{verdict.outcome:8}{verdict.rule:{NAME_WIDTH + 2}}{printable(what)}"
