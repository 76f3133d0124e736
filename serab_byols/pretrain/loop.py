"""The training loop: build, resume, and for every step batch, losses, gradients, log and checkpoint."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch

from serab_byols.errors import CheckpointError, DivergedError
from serab_byols.pretrain.byol import relative_spread
from serab_byols.pretrain.crops import CropReader, crop_batches
from serab_byols.pretrain.device_transfers import UnreadNumbers, steps_between_reads, to_device
from serab_byols.pretrain.distributed import own_share, synchronize_batch_norms
from serab_byols.pretrain.machine import Machine
from serab_byols.pretrain.network import PretrainNetwork
from serab_byols.pretrain.outputs import Outputs
from serab_byols.pretrain.progress import Reporting
from serab_byols.pretrain.stop_signals import StopSignals
from serab_byols.pretrain.training_checkpoint import DAMAGED, save_training
from serab_byols.pretrain.training_log import append_row, keep_rows_before
from serab_byols.pretrain.training_speed import TrainingSpeed, estimate
from serab_byols.pretrain.views import Draws, mixed_seed

if TYPE_CHECKING:
    from lightning.fabric import Fabric

COLLAPSED_SPREAD = 0.01
"""Embeddings this close to one another, relative to their length, no longer tell clips apart."""

_COLLAPSED_STEPS = 50


def train(
    fabric: Fabric,
    network: PretrainNetwork,
    reader: CropReader,
    machine: Machine,
    outputs: Outputs,
    identity: dict[str, Any],
    saved: dict[str, Any] | None,
    reporting: Reporting,
) -> tuple[int, bool]:
    """Train ``network`` until the last step, the time limit or a signal.

    Training checkpoints carry ``identity``; ``saved`` is the one to resume from, if there is one.

    Returns:
        The number of steps done in all, and whether a signal ended the training.

    Raises:
        CheckpointError: what was saved is not of this network.
        DivergedError: the loss or the weights became infinite or NaN; the training checkpoint is from
            before.
    """
    config, is_main = network.config, fabric.is_global_zero
    end_s = time.monotonic() + machine.max_minutes * 60
    share = own_share(config.batch_size)
    if share.n_processes > 1:
        synchronize_batch_norms(network, fabric.device)
    # Not fabric.setup(), whose module casts its inputs in mixed precision: the front end needs float32.
    model = fabric.strategy.setup_module(fabric.to_device(network))
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer: Any = fabric.setup_optimizers(
        torch.optim.AdamW(learned, config.lr, (0.9, config.beta2), weight_decay=config.weight_decay)
    )

    done = 0
    if saved is not None:
        done = saved["step"]
        try:
            network.load_state_dict(saved["network"])
            optimizer.load_state_dict(saved["optimizer"])
            if saved["precision"]:  # empty if it was saved in another precision
                fabric.strategy.precision.load_state_dict(saved["precision"])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise CheckpointError(f"{outputs.training} {DAMAGED}") from error
    if is_main:
        keep_rows_before(outputs.log, done)

    n_collapsed, speed = 0, TrainingSpeed()
    says_estimate = reporting.shows_progress
    first, unread, read_every = done, UnreadNumbers(), steps_between_reads(fabric.device)
    with (
        StopSignals() as signals,
        closing(crop_batches(reader, share, done, config.steps)) as batches,
        reporting.track("training", config.steps, "step", initial=done) as progress,
    ):
        for step, (waveforms, clips) in enumerate(batches, start=done):
            speed.batch_arrived()
            draws = Draws(config.seed, step, share, fabric.device)
            torch.manual_seed(mixed_seed(config.seed, share.n_processes * step + share.rank))  # for dropout
            with fabric.autocast():
                losses, embedding = model(
                    to_device(waveforms, fabric.device), to_device(clips, fabric.device), draws
                )
            loss = torch.stack(list(losses.values())).sum()
            if network.byol is not None:
                # Between forward and backward pass, as BYOL-S did: the target is one step behind.
                network.byol.update_target(network.encoder, config.ema_decay_at(step))
            for group in optimizer.param_groups:
                group["lr"] = config.lr_at(step)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            done = step + 1

            unread.add(step, {"loss": loss, **losses, "spread": relative_spread(embedding)})
            speed.step_issued()
            saves = done == config.steps or done % machine.checkpoint_steps == 0
            wants_stop = signals.received or time.monotonic() > end_s
            # Clocks differ between processes, and not each gets the signal: several stop where all read.
            # The first step is read by itself, since it says little of how long the others take.
            stops_here = wants_stop and share.n_processes == 1
            if not (saves or stops_here or done - first == 1 or done % read_every == 0):
                continue
            rows, stopping = unread.read(wants_stop)
            speed.steps_done()
            for row_step, metrics in rows:
                if is_main:
                    crops_per_s = f"{config.batch_size / speed.last_step_s:.1f}"
                    facts = {"lr": config.lr_at(row_step), "crops_per_s": crops_per_s}
                    append_row(outputs.log, {"step": row_step, **metrics, **facts})
                progress.update(loss=f"{metrics['loss']:.4f}", spread=f"{metrics['spread']:.3f}")
                n_collapsed = n_collapsed + 1 if metrics["spread"] < COLLAPSED_SPREAD else 0
                if n_collapsed == _COLLAPSED_STEPS:
                    reporting.message(_collapse_warning(row_step + 1, network.byol is not None))
                if not metrics["loss"] < float("inf"):
                    raise DivergedError(
                        f"the loss became {metrics['loss']} at step {row_step + 1}: try a lower learning rate"
                    )
            if says_estimate and speed.is_known and done < config.steps:
                reporting.message(estimate(speed, config.steps - done, config, machine))
                says_estimate = False
            if stopping or saves:
                _check_weights(network, done)
                if is_main:
                    state = {
                        "step": done,
                        "identity": identity,
                        "network": network.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "precision": fabric.strategy.precision.state_dict(),
                    }
                    save_training(outputs.training, state)
            if stopping:
                break
    return done, signals.received


def _collapse_warning(step: int, has_target: bool) -> str:
    advice = "a lower learning rate, larger batches, or an EMA decay closer to 1"
    if not has_target:
        advice = "a lower learning rate or larger batches"
    return (
        f"warning: at step {step} the embeddings have collapsed: their spread has been below "
        f"{COLLAPSED_SPREAD:g} of their length for {_COLLAPSED_STEPS} steps. Try {advice}"
    )


def _check_weights(network: PretrainNetwork, step: int) -> None:
    """The loss was that of the weights before this step."""
    if not torch.stack([parameter.isfinite().all() for parameter in network.parameters()]).all():
        raise DivergedError(f"the weights became infinite or NaN at step {step}: try a lower learning rate")
