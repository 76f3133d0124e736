"""Runs the command again and again and kills it at random moments, until a run gets to its end.

Usage: python killed_runs.py SEED N_KILLS OUT COMMAND ...

Every attempt is a fork of this process, which has imported the library but computed nothing. A run that is
not disturbed tells how long the command takes; the others are killed within half of that. Prints one line:
the number of attempts that were killed, and the exit status of the last.
"""

import os
import random
import signal
import sys
import time

from serab_byols import cli
from serab_byols.cli import embed


def attempt(arguments: list[str], kill_after_s: float | None) -> int | None:
    """Exit status of the command; None if it was killed before it ended."""
    process = os.fork()
    if process == 0:
        os._exit(cli.main(arguments))
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def main() -> None:
    seed, n_kills, out, *arguments = sys.argv[1:]
    assert embed  # imported before the first fork
    rng = random.Random(int(seed))
    began = time.monotonic()
    if int(n_kills):
        attempt([*arguments, "-o", f"{out}-undisturbed/"], None)
    duration_s = time.monotonic() - began
    arguments += ["-o", f"{out}/"]
    statuses = [attempt(arguments, rng.uniform(0, duration_s / 2)) for _ in range(int(n_kills))]
    print(statuses.count(None), attempt(arguments, None))


if __name__ == "__main__":
    main()
