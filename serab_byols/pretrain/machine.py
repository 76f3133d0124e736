"""Where and how a training runs, and Lightning's trainer for it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from serab_byols.errors import InvalidInputError


@dataclass(frozen=True)
class Machine:
    """Where a training runs; none of it is part of what is learnt.

    Attributes:
        accelerator, devices, n_nodes, strategy, precision: as Lightning's Trainer takes them.
        cache_gb: decoded audio kept in memory, in 10^9 bytes over all processes of a machine.
        checkpoint_steps: how often all that is needed to resume is saved.
        max_minutes: stop after so long, to be resumed.
        bar: whether to draw a progress bar where stderr is a terminal.
    """

    accelerator: str = "cpu"
    devices: int = 1
    n_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    cache_gb: float = 4.0
    checkpoint_steps: int = 500
    max_minutes: float = float("inf")
    bar: bool = True

    def __post_init__(self) -> None:
        if self.devices < 1 and self.devices != -1:
            raise InvalidInputError(f"devices must be at least 1, or -1 for all, got {self.devices}")
        for name, least in (("n_nodes", 1), ("checkpoint_steps", 1), ("cache_gb", 0), ("max_minutes", 0)):
            if not getattr(self, name) >= least:
                raise InvalidInputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if any(way in self.strategy for way in ("fork", "spawn", "notebook")):
            raise InvalidInputError(
                f"strategy {self.strategy!r} starts processes from within this one, which would not see what "
                "they learnt; use 'ddp'"
            )
        if self.accelerator == "cpu" and self.precision == "16-mixed":
            raise InvalidInputError("precision 16-mixed is for GPUs; on a CPU use bf16-mixed")


def make_trainer(machine: Machine, n_steps: int, callbacks: list[Callback]) -> Trainer:
    """A trainer of so many steps.

    Raises:
        InvalidInputError: Lightning does not know such a machine, or this is not one.
    """
    strategy: str | DDPStrategy = machine.strategy
    if strategy == "ddp" or (strategy == "auto" and (machine.devices != 1 or machine.n_nodes > 1)):
        # Buffers are the same in all processes as it is; the memory of mixup is large.
        strategy = DDPStrategy(broadcast_buffers=False)
    try:
        return Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.n_nodes,
            strategy=strategy,
            precision=machine.precision,  # type: ignore[arg-type]
            max_steps=n_steps,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=callbacks,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"Lightning cannot run this here: {error}") from error


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's advice is for people who wrote the loop; problems raise all the same."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
