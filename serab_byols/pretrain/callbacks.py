"""What happens around the steps: the log, the bar, the checkpoint, the guard, the end."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from serab_byols.atomic_write import atomic_write, flush_to_disk
from serab_byols.errors import DivergedError
from serab_byols.pretrain.distributed import averaged
from serab_byols.pretrain.module import PretrainModule

Say = Callable[[str], None]

VANISHED_SPREAD = 0.01
"""Embeddings this close to one another, relative to their length, tell clips apart no longer."""

_STEPS_OF_SPREAD = 50


def _metrics(module: LightningModule) -> dict[str, float]:
    assert isinstance(module, PretrainModule)
    return {name: float(value) for name, value in module.metrics.items()}


class CsvLog(Callback):
    """One row a step: loss and its parts, learning rate, spread of the embeddings, crops a second.

    A resumed training writes on after the last row before the step it resumes at.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            keep_rows_before(self.path, trainer.global_step)
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, PretrainModule)
        step = trainer.global_step - 1
        metrics = _metrics(pl_module)  # which waits for a GPU to be done
        now = time.perf_counter()
        seconds, self._began = now - self._began, now  # from step to step: waiting for audio counts
        row = {
            "step": step,
            **{name: repr(value) for name, value in metrics.items()},
            "lr": repr(pl_module.config.lr * pl_module.config.lr_factor(step)),
            "crops_per_s": f"{pl_module.config.batch_size / seconds:.1f}",
        }
        is_new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(row), list(row.values())] if is_new else [list(row.values())])


def keep_rows_before(path: Path, step: int) -> None:
    """Take away what a log says of ``step`` and later ones, which will come again."""
    if not path.exists():
        return
    # A kill or a power cut may have left half a row, or bytes that are no text.
    lines = path.read_text(encoding="utf-8", errors="replace").replace("\0", "").splitlines()
    header, *rows = list(csv.reader(lines)) or [[]]
    rows = [row for row in rows if len(row) == len(header) and row[0].isdigit() and int(row[0]) < step]
    if not rows:
        path.unlink()
        return
    with atomic_write(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


class Bar(Callback):
    """A progress bar on a terminal, unless it is not wanted."""

    def __init__(self, wanted: bool = True) -> None:
        self._wanted = wanted
        self._bar: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            unit="step",
            disable=None if self._wanted and trainer.is_global_zero else True,
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._bar.update()
        if not self._bar.disable:
            values = _metrics(pl_module)
            self._bar.set_postfix(
                loss=f"{values['loss']:.4f}", spread=f"{values['spread']:.3f}", refresh=False
            )

    def teardown(self, *_: Any, **__: Any) -> None:
        if self._bar is not None:
            self._bar.close()


class SpreadGuard(Callback):
    """Warns once when the embeddings of a batch have become one and the same."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._latest: deque[float] = deque(maxlen=_STEPS_OF_SPREAD)
        self._warned = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._latest.append(_metrics(pl_module)["spread"])
        full = len(self._latest) == _STEPS_OF_SPREAD
        if full and not self._warned and max(self._latest) < VANISHED_SPREAD and trainer.is_global_zero:
            self._warned = True
            self._say(
                f"warning: at step {trainer.global_step} the embeddings have collapsed: their spread has "
                f"been below {VANISHED_SPREAD:g} of their length for {_STEPS_OF_SPREAD} steps. Try a lower "
                "learning rate, larger batches, or an EMA decay closer to 1"
            )


class DivergenceGuard(Callback):
    """Ends a training whose loss is no number any more; the last checkpoint is from before."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        loss = _metrics(pl_module)["loss"]
        if not loss < float("inf"):
            raise DivergedError(
                f"the loss became {loss} at step {trainer.global_step}: try a lower learning rate"
            )


class Checkpoints(Callback):
    """Saves all that a training needs to go on exactly, every so many steps and when it stops.

    Saving is done between steps only. A signal to end is obeyed after the step and the saving; a
    second one at once.

    Args:
        path: where to; replaced as a whole.
        every_steps: how often.
        max_s: stop after so many seconds.
        extra: what the file should also hold, to compare when it is resumed.
    """

    def __init__(self, path: Path, every_steps: int, max_s: float, extra: dict[str, Any]) -> None:
        self.path, self.every_steps, self.max_s, self.extra = path, every_steps, max_s, extra
        self.interrupted = False
        self._handlers: dict[signal.Signals, Any] = {}
        self._end = float("inf")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end = time.monotonic() + self.max_s
        if threading.current_thread() is threading.main_thread():  # others get no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._stop_soon)

    def _stop_soon(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["serab_byols"] = self.extra

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        wants_end = torch.tensor(
            float(self.interrupted or time.monotonic() > self._end), device=pl_module.device
        )
        # The clocks of several processes differ, and not each gets the signal.
        trainer.should_stop = bool(averaged(wants_end) > 0)
        last = trainer.should_stop or trainer.global_step >= trainer.max_steps
        if last or trainer.global_step % self.every_steps == 0:
            self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, module: LightningModule) -> None:
        # The loss was that of the weights before this step.
        if not all(bool(parameter.isfinite().all()) for parameter in module.parameters()):
            raise DivergedError(
                f"the weights became infinite or NaN at step {trainer.global_step}: try a lower learning rate"
            )
        scratch = self.path.with_name(f".{self.path.name}.part")
        trainer.save_checkpoint(scratch)
        if trainer.is_global_zero:
            flush_to_disk(scratch)
            os.replace(scratch, self.path)

    def teardown(self, *_: Any, **__: Any) -> None:
        self._restore_handlers()
