"""Batches to the device and losses back, without a wait for the device in every step.

A GPU works through a queue. To read a number is to wait until the queue is empty, and nothing is added to it
meanwhile; so is an ordinary copy to the device. Losses are therefore read every few steps, with one wait,
and copies start from pinned memory.
"""

from __future__ import annotations

import torch

from serab_byols.pretrain.distributed import averaged

READ_EVERY_STEPS = 16
"""Steps whose numbers are read from a GPU together."""

Numbers = dict[str, float]


def steps_between_reads(device: torch.device) -> int:
    """On a CPU there is nothing to wait for: every step is read when it is done."""
    return 1 if device.type == "cpu" else READ_EVERY_STEPS


class UnreadNumbers:
    """Collects numbers of steps on the device until they are read together."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, list[str]]] = []
        self._numbers: list[torch.Tensor] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: int, numbers: dict[str, torch.Tensor]) -> None:
        """The numbers of a step, scalars on the device."""
        self._steps.append((step, list(numbers)))
        self._numbers.append(torch.stack(list(numbers.values())).detach())

    def read(self, flag: bool) -> tuple[list[tuple[int, Numbers]], bool]:
        """Steps with their numbers, averaged over the processes, and whether any process has the ``flag``.

        One exchange between the processes and one wait for the device. All processes call it after the same
        step. What was collected is forgotten.
        """
        flags = to_device(torch.tensor([float(flag)]), self._numbers[0].device)
        *values, any_flag = averaged(torch.cat([*self._numbers, flags])).tolist()
        rest = iter(values)
        rows = [(step, {name: next(rest) for name in names}) for step, names in self._steps]
        self._steps, self._numbers = [], []
        return rows, any_flag > 0


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``x``, in host memory, on the device; a GPU copies it when it comes to it."""
    if device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
