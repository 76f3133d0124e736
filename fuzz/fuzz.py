"""Feed damaged audio, checkpoints, lists and manifests to the library, in a process with limited memory.

    python fuzz/fuzz.py --seconds 60 --seed 0

Every case is damaged by a generator with its own seed, so that a finding can be repeated with
``--only CASE``. A case passes if the library gives finite numbers or raises an error of its own. Anything
else is a finding: another exception, NaN, a crash, more than the memory or the time that is allowed. The
damaged file is kept in ``--keep`` for a test to be made of it.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from damage import damaged
from targets import TARGETS, Finding, Target, make_originals

EXTRA_MEMORY_BYTES = 2 << 30
CASE_SECONDS = 30
HANGING_SECONDS = 60
"""How long after its time a worker may still be at its last case, or at loading."""


def main() -> int:
    options = _options()
    if options.worker:
        return _work(options)
    end = time.monotonic() + options.seconds
    first, n_cases, findings = options.only if options.only is not None else options.seed * 10_000_000, 0, 0
    while time.monotonic() < end:
        n_done, found = _run_worker(options, first, max(1.0, end - time.monotonic()))
        n_cases, findings, first = n_cases + n_done, findings + found, first + n_done
        if options.only is not None:
            break
    print(f"{n_cases} cases, {findings} findings" + (f", kept in {options.keep}" if findings else ""))
    return 1 if findings else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: %(default)s)")
    parser.add_argument("--only", type=int, metavar="CASE", help="repeat one case")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for damaged files")
    parser.add_argument("--worker", type=int, metavar="CASE", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run_worker(options: argparse.Namespace, first: int, seconds: float) -> tuple[int, int]:
    """Cases from number ``first`` on in a process of their own; how many were run, and findings."""
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--worker",
        str(first),
        "--seconds",
        str(seconds),
    ]
    command += ["--keep", str(options.keep.resolve())]
    if options.only is not None:
        command += ["--only", str(first)]
    with tempfile.TemporaryDirectory() as scratch:
        said, end = _said_and_end(command, scratch, seconds + HANGING_SECONDS)
        cases = [int(number) for number in re.findall(r"^case (\d+)$", said, re.MULTILINE)]
        findings = re.findall(r"^FINDING .*$", said, re.MULTILINE)
        if end and not findings:
            findings.append(f"FINDING case {cases[-1] if cases else first}: {end}")
            if cases:
                _keep(options.keep, cases[-1], *Path(scratch).glob("damaged.*"))
    for finding in findings:
        print(finding)
    return (cases[-1] - first + 1 if cases else 1), len(findings)


def _said_and_end(command: list[str], folder: str, timeout_s: float) -> tuple[str, str]:
    """What a worker printed, and how it ended if not well: no alarm wakes a process that waits for a lock."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            said, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            return said, "hangs"
    return said, f"exit {process.returncode}" if process.returncode else ""


def _work(options: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    originals = make_originals(Path("originals"))
    for target in TARGETS:
        target.check(originals[target.name][0])  # undamaged: loads every module before memory is limited
    _limit_memory()
    signal.signal(signal.SIGALRM, _too_slow)
    end = time.monotonic() + options.seconds
    case, found = options.worker, False
    while time.monotonic() < end and not found:
        print(f"case {case}", flush=True)
        rng = np.random.default_rng(case)
        target = TARGETS[int(rng.integers(len(TARGETS)))]
        original = originals[target.name][int(rng.integers(len(originals[target.name])))]
        path = Path(f"damaged{original.suffix}")
        path.write_bytes(damaged(original.read_bytes(), rng))
        found = _fails(target, path, case, options.keep)
        path.unlink(missing_ok=True)
        case += 1
        if options.only is not None:
            break
    return int(found)


def _fails(target: Target, path: Path, case: int, keep: Path) -> bool:
    from serab_byols import SerabByolsError

    signal.alarm(CASE_SECONDS)
    try:
        target.check(path)
    except SerabByolsError:
        return False
    except (Finding, Exception) as error:
        print(f"FINDING case {case} ({target.name}): {type(error).__name__}: {error}")
        _keep(keep, case, path)
        return True
    finally:
        signal.alarm(0)
    return False


def _keep(folder: Path, case: int, *paths: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.copy(path, folder / f"{case}{path.suffix}")


def _too_slow(*_: object) -> None:
    raise Finding(f"more than {CASE_SECONDS} s")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + EXTRA_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
