"""Times, ratios, the machine, and tables."""

from __future__ import annotations

import copy
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

Row = dict[str, Any]


@dataclass
class Section:
    """What one part of the benchmark found: a table on the terminal, the rows in the JSON.

    Attributes:
        columns: heading to the function that writes a row's cell.
        notes: what the reader of the numbers has to know.
    """

    title: str
    columns: Mapping[str, Callable[[Row], str]]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The section as text."""
        cells = [list(self.columns), *([cell(row) for cell in self.columns.values()] for row in self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(self.columns))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]
        rule = "-" * max(map(len, lines))
        return "\n".join(
            [self.title, rule, lines[0], rule, *lines[1:], *(f"* {note}" for note in self.notes)]
        )


def alternate(
    candidates: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every candidate: A B C A B C ..., so that the machine's moods meet them all."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, candidate in candidates.items():
            _finish(device)
            start = time.perf_counter()
            candidate()
            _finish(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def paired_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest ratio of times that were measured in the same round."""
    ratios = [n / d for n, d in zip(numerator, denominator)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def flops(encoder: nn.Module, n_frames: int) -> int:
    """Floating-point operations, two per multiply-add, for one log-mel of ``n_frames``.

    Counted without data: on a CPU the LSTM is a single kernel, which the counter does not know.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(encoder).to("meta")(torch.zeros(1, 1, 64, n_frames, device="meta"))
    return counter.get_total_flops()


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Greatest difference as a fraction of the greatest expected magnitude."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def machine(device: torch.device) -> dict[str, Any]:
    """Where the numbers were measured, and how busy it was at the start."""
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    facts |= {package: _version(package) for package in ("serab_byols", "torch", "onnxruntime")}
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
