"""Where and how a training runs, and Lightning Fabric for it."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from serab_byols.errors import InvalidInputError, missing_extra
from serab_byols.pretrain.config import is_number

if TYPE_CHECKING:
    from lightning.fabric import Fabric

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("auto", "ddp")


@dataclass(frozen=True)
class Machine:
    """Where a training runs; none of it changes what is learned.

    Attributes:
        accelerator: ``"cpu"``, ``"gpu"``, ``"mps"`` or ``"auto"``.
        devices: processes per machine; -1: one for each GPU.
        n_nodes: machines.
        strategy: ``"ddp"``, or ``"auto"``: DDP if there are several processes.
        precision: ``"32-true"``, ``"bf16-mixed"`` or, on GPUs, ``"16-mixed"``.
        cache_gb: decoded audio kept in memory, in 10^9 bytes over all processes of a machine.
        checkpoint_steps: steps between two training checkpoints.
        max_minutes: stop after this time, to be resumed.
        bar: whether to show a progress bar where stderr is a terminal.
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
        for name, least in (("devices", 1), ("n_nodes", 1), ("checkpoint_steps", 1)):
            count: Any = getattr(self, name)
            if not is_number(count, Integral):
                raise InvalidInputError(f"{name} must be a whole number, got {count!r}")
            if count < least and (name, count) != ("devices", -1):
                all_of_them = ", or -1 for all" if name == "devices" else ""
                raise InvalidInputError(f"{name} must be at least {least}{all_of_them}, got {count}")
        for name, most in (("cache_gb", 1e6), ("max_minutes", math.inf)):
            value: Any = getattr(self, name)
            if not is_number(value, Real) or not 0 <= value <= most:
                limit = "" if most == math.inf else f" and at most {most:g}"
                raise InvalidInputError(f"{name} must be a number of at least 0{limit}, got {value!r}")
        for name, choices in (("strategy", STRATEGIES), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise InvalidInputError(
                    f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(choices)}"
                )
        if self.accelerator == "cpu" and self.precision == "16-mixed":
            raise InvalidInputError("precision 16-mixed is for GPUs; on a CPU use bf16-mixed")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Import Lightning and silence its messages and warnings, which are for the authors of a training.

    Raises:
        MissingExtraError: Lightning is not installed.
    """
    try:
        import lightning.fabric  # noqa: F401  # first, since the import sets the loggers' levels
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lightning":
            raise
        raise missing_extra("lightning", "pretrain", "pretraining") from error
    loggers = [logging.getLogger(name) for name in ("lightning.fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def create_fabric(machine: Machine) -> Fabric:
    """Lightning Fabric for a machine, not launched yet.

    Raises:
        InvalidInputError: Lightning does not know such a machine, or this is not one.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    several = machine.strategy == "ddp" or machine.devices != 1 or machine.n_nodes > 1
    try:
        return Fabric(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.n_nodes,
            # Buffers are equal in all processes anyway, and the mixup memory is large.
            strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
            precision=machine.precision,  # type: ignore[arg-type]
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"Lightning cannot run this here: {error}") from error
