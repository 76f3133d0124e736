"""The peak memory of this process; imports nothing that is not Python's, so that it adds nothing to it."""

from __future__ import annotations

import platform
from pathlib import Path


def peak_rss_bytes() -> int:
    """The most resident memory that this process has had.

    Not ``ru_maxrss`` where it can be helped: on Linux that survives an exec, so a child begins
    with the peak of the process that started it.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
