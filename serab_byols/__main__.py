"""``python -m serab_byols``, and what ``serab-byols`` runs."""

from __future__ import annotations

import os
import signal

EXIT_INTERRUPTED = 130
"""Not imported: the modules of the command are not loaded yet."""


def main() -> int:
    """Run the command line as a process of its own; returns the exit status."""
    # Until the modules are imported there is nothing to clean up, and an exception could get lost in
    # extension modules that are being initialised, or be shown as a traceback.
    is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # of jobs in the background
    if not is_ignored:
        signal.signal(signal.SIGINT, _end_at_once)
    from serab_byols.cli import main as run

    try:
        return run()
    finally:
        if not is_ignored:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left to be undone


def _end_at_once(number: int, frame: object) -> None:
    try:
        os.write(2, b"serab-byols: interrupted\n")
    finally:
        os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    raise SystemExit(main())
