"""How long a training will take, and what would make it quicker."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

import torch

from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.machine import Machine
from serab_byols.pretrain.progress import duration

STEPS_TO_MEASURE = 20
SLOW_STEPS_TO_MEASURE, SLOW_S = 3, 30.0
"""Where steps are slow, three of them and half a minute are enough."""

_LONG_S = 600.0
"""Beyond this, what would be quicker is worth a sentence."""

_MUCH_WAITING = 0.2
_MANY_CROPS = 64


class TrainingSpeed:
    """Measures the steps of a training, and what share of their time is waiting for audio.

    A device may still be busy with steps that were issued; they are measured together once it has done them.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._steps_s: list[float] = []
        self._waits_s: list[float] = []
        self._last_s = self._free_s = clock()
        self._n_issued, self._waited_s = 0, 0.0

    def batch_arrived(self) -> None:
        """The step has its audio."""
        self._waited_s += self._clock() - self._free_s

    def step_issued(self) -> None:
        """The step is under way, and the wait for the next one's audio begins."""
        self._n_issued += 1
        self._free_s = self._clock()

    def steps_done(self) -> None:
        """All steps that were issued are done."""
        now_s, n = self._clock(), self._n_issued
        # What the device still had to do just now it did while the host waited: only the rest cost time.
        waited_s = max(0.0, self._waited_s - (now_s - self._free_s))
        self._waits_s += [waited_s / n] * n
        self._steps_s += [(now_s - self._last_s) / n] * n
        self._last_s = self._free_s = now_s
        self._n_issued, self._waited_s = 0, 0.0

    @property
    def last_step_s(self) -> float:
        """Of the steps that were done last, each."""
        return self._steps_s[-1]

    @property
    def is_known(self) -> bool:
        """Whether there are enough steps, the first of which is not typical, to say how long others take."""
        n, elapsed_s = len(self._steps_s), sum(self._steps_s)
        return n >= STEPS_TO_MEASURE or (n >= SLOW_STEPS_TO_MEASURE and elapsed_s >= SLOW_S)

    @property
    def step_s(self) -> float:
        """Seconds of a typical step."""
        return median(self._steps_s[1:] or self._steps_s)

    @property
    def waiting(self) -> float:
        """Share of the time, without the first step's, that was spent on waiting for audio."""
        return sum(self._waits_s[1:]) / max(sum(self._steps_s[1:]), 1e-9)


def estimate(speed: TrainingSpeed, n_left: int, config: PretrainConfig, machine: Machine) -> str:
    """How long the ``n_left`` steps will take and, if that is long, what would be quicker."""
    left_s = n_left * speed.step_s
    text = f"about {duration(left_s)} for the {n_left} steps that are left, {speed.step_s:.2g} s each"
    limit_s = machine.max_minutes * 60
    if limit_s < left_s:
        text += f" (it stops after {duration(limit_s)}, to be resumed)"
    if left_s < _LONG_S:
        return text
    ways = quicker(config, machine, speed.waiting, has_fast_bfloat16(), torch.cuda.is_available())
    return f"{text}. Quicker: {', '.join(ways)}"


def quicker(
    config: PretrainConfig, machine: Machine, waiting: float, fast_bfloat16: bool, has_gpu: bool
) -> list[str]:
    """What would shorten a training, as options of the command.

    Args:
        config, machine: of the training.
        waiting: share of the time that is spent on waiting for audio.
        fast_bfloat16: whether the processor computes bfloat16 in hardware.
        has_gpu: whether torch could use one.
    """
    ways = ["fewer --steps"]
    if config.batch_size >= _MANY_CROPS:
        ways.append(f"a smaller --batch-size than {config.batch_size}")
    if config.encoder == "default" and config.encoder_config.get("d", 2048) > 512:
        ways.append("a smaller encoder (--size 512)")
    on_cpu = machine.accelerator == "cpu"
    if on_cpu and has_gpu:
        ways.append("--accelerator gpu")
    if machine.precision == "32-true" and (fast_bfloat16 or not on_cpu):
        ways.append("--precision bf16-mixed, which this machine computes in hardware")
    if waiting > _MUCH_WAITING:
        ways.append(
            f"a larger --cache-gb than {machine.cache_gb:g} or files that decode faster ({waiting:.0%} of "
            "the time is waiting for audio)"
        )
    return ways


def has_fast_bfloat16() -> bool:
    """Whether this processor says that it computes bfloat16 in hardware; only Linux tells."""
    with suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
        return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)
    return False
