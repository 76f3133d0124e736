"""A pretraining from files to weights: begin or resume, train, write the results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import torch

from serab_byols.atomic_write import atomic_write, check_not_an_input
from serab_byols.checkpoint import load_model, save_checkpoint, weights_sha256
from serab_byols.encoders import create_encoder
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import create_frontend
from serab_byols.model import ByolsModel
from serab_byols.pretrain.config import PretrainConfig, is_number
from serab_byols.pretrain.crops import LISTING, Clip, CropReader, Crops, find_clips, fingerprint
from serab_byols.pretrain.hybrid import Features, load_features
from serab_byols.pretrain.loop import train
from serab_byols.pretrain.machine import Machine, create_fabric, quiet_lightning
from serab_byols.pretrain.network import PretrainNetwork
from serab_byols.pretrain.outputs import Outputs, write_errors
from serab_byols.pretrain.progress import SILENT, Progress, Reporting, is_started_by_another
from serab_byols.pretrain.training_checkpoint import read_training
from serab_byols.pretrain.training_plots import plot_first_views, plot_loss


@dataclass(frozen=True)
class Result:
    """What a call of :func:`pretrain` did.

    Attributes:
        weights: the file that ``load_model`` takes.
        encoder: name of the trained encoder.
        step: optimiser steps done in all.
        n_steps: optimiser steps of the whole training.
        interrupted: whether a signal ended it.
        bad_files: names of the files that could not be read, and why.
        is_main: whether this process is the one of several that reports and writes.
    """

    weights: Path
    encoder: str
    step: int
    n_steps: int
    interrupted: bool
    bad_files: list[tuple[str, str]]
    is_main: bool

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.n_steps


def pretrain(
    inputs: Sequence[str],
    output: str | Path,
    config: PretrainConfig | None = None,
    *,
    machine: Machine | None = None,
    teacher: str | Path | None = None,
    init: str | Path | None = None,
    features: str | None = None,
    views: str | Path | None = None,
    epochs: float | None = None,
    restart: bool = False,
    on_message: Callable[[str], None] = print,
) -> Result:
    """Train an encoder on unlabelled audio (BYOL-S, arXiv 2206.12038), or continue where it stopped.

    Beside ``output`` there will be ``.training.ckpt`` (to resume from), ``.log.csv``, ``.loss.png``
    and, if files are bad, ``.errors.csv``. The same call again resumes, and continues exactly.

    Args:
        inputs: audio files, folders, or CSV lists with a column ``path`` and optionally ``start`` and
            ``end`` in seconds. What is given several times is drawn from as often.
        output: where the weights go, a file ending in ``.safetensors``.
        config: every option of the training.
        machine: where and how to run it.
        teacher: a checkpoint to match, for ``teacher_weight`` and ``teacher_time_step_weight``.
        init: a checkpoint whose weights to begin with, instead of random ones. Its encoder and size
            replace the config's, and its statistics are used where the config has none.
        features: for ``hybrid_weight``: ``"log-mel-statistics"``, ``"compare2016"`` or a table; see
            :func:`serab_byols.pretrain.hybrid.load_features`.
        views: a PNG to draw some of the first views into.
        epochs: passes through the corpus, instead of ``config.steps``.
        restart: begin anew, even if there is a training checkpoint.
        on_message: called with what a person should know. Progress is a bar where stderr is a terminal, a
            message now and then where it is none, and nothing with ``machine.bar=False``.

    Raises:
        InvalidInputError: an option, a list or a table that does not fit, or no readable audio.
        CheckpointError: the training checkpoint is damaged, or was begun with other options.
        MissingExtraError: a package of the extras ``pretrain`` or ``hybrid`` is missing.
        DivergedError: the loss became infinite or NaN.
    """
    config, machine, outputs = config or PretrainConfig(), machine or Machine(), Outputs(Path(output))
    # The bar comes before the import of Lightning, which takes seconds.
    with _first_reporting(on_message, machine).track(LISTING, None, "file") as listing:
        return _pretrain(
            inputs,
            outputs,
            config,
            machine,
            teacher=teacher,
            init=init,
            features=features,
            views=views,
            epochs=epochs,
            restart=restart,
            listing=listing,
            on_message=on_message,
        )


@quiet_lightning()
def _pretrain(
    inputs: Sequence[str],
    outputs: Outputs,
    config: PretrainConfig,
    machine: Machine,
    *,
    teacher: str | Path | None,
    init: str | Path | None,
    features: str | None,
    views: str | Path | None,
    epochs: float | None,
    restart: bool,
    listing: Progress,
    on_message: Callable[[str], None],
) -> Result:
    """As :func:`pretrain`; ``listing`` is the progress of finding the audio files."""
    fabric = create_fabric(machine)
    bad_files: list[tuple[str, str]] = []

    def note_bad(name: str, reason: str) -> None:
        bad_files.append((name, reason))

    reporting = _first_reporting(on_message, machine)
    clips = find_clips(inputs, note_bad, reporting, listing)
    read = [*inputs, *(clip.segment.path for clip in clips), teacher, init, features]
    check_not_an_input(
        [*vars(outputs).values(), Path(views) if views else None], [path for path in read if path]
    )
    models = _Models(load_model(teacher) if teacher else None, load_model(init) if init else None)
    config = _complete(config, clips, models.init, epochs)
    targets = load_features(features, clips, note_bad, reporting) if features else None
    identity = _identity(config, clips, models, targets)
    resumes = outputs.training.exists() and not restart
    saved = read_training(outputs.training, identity) if resumes else None

    # Of several processes, Lightning starts the others with the same command, and they come this far too.
    fabric.launch()
    is_main = fabric.is_global_zero
    reporting = Reporting(on_message, machine.bar) if is_main else SILENT

    def on_error(name: str, reason: str) -> None:
        note_bad(name, reason)
        reporting.message(f"left out: {reason}")

    crops = Crops(clips, config.n_samples, config.batch_size, config.seed)
    cache_bytes = int(machine.cache_gb * 1e9 * machine.n_nodes / fabric.world_size)
    reader = CropReader(crops, cache_bytes, on_error)
    network = PretrainNetwork(
        config,
        crops.n_per_epoch,
        features=targets,
        teacher=models.teacher.encoder if models.teacher else None,
        init=models.init.encoder if models.init else None,
    )
    for _, reason in bad_files:
        reporting.message(f"left out: {reason}")
    reporting.message(
        f"{len(clips)} clips, {_hours(clips):.2f} h, {crops.n_per_epoch} crops of {config.crop_s:g} s per "
        f"epoch; {config.steps} steps of {config.batch_size} are "
        f"{config.steps * config.batch_size / crops.n_per_epoch:.1f} epochs"
    )
    if saved is not None:
        reporting.message(f"resumed at step {saved['step']} of {config.steps}")
    elif is_main:
        outputs.training.unlink(missing_ok=True)  # of the training that this one replaces
    if views is not None and is_main:
        plot_first_views(config, reader, Path(views), reporting)
    gpus = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(gpus):  # the caller's random state stays as it was
        step, interrupted = train(fabric, network, reader, machine, outputs, identity, saved, reporting)
    if is_main:
        facts = _facts(config, clips, models, step) | {"features": Path(features).name if features else None}
        _write_weights(network, outputs.weights, facts)
        if outputs.log.exists():
            with atomic_write(outputs.loss_plot) as scratch:
                plot_loss(outputs.log, scratch)
        write_errors(outputs.errors, bad_files, is_resumed=saved is not None)
    return Result(outputs.weights, config.encoder, step, config.steps, interrupted, bad_files, is_main)


def _first_reporting(on_message: Callable[[str], None], machine: Machine) -> Reporting:
    """Until Lightning knows which process reports."""
    return SILENT if is_started_by_another() else Reporting(on_message, machine.bar)


class _Models(NamedTuple):
    """Checkpoints that a training uses."""

    teacher: ByolsModel | None
    init: ByolsModel | None


def _complete(
    config: PretrainConfig, clips: list[Clip], init: ByolsModel | None, epochs: Any
) -> PretrainConfig:
    """The config with what the initial weights and the length of the corpus decide."""
    if init is not None:
        config = replace(
            config,
            encoder=init.encoder.name,
            encoder_config=init.encoder.config,
            statistics=config.statistics or init.statistics,
        )
    if epochs is not None:
        if not is_number(epochs, Real) or not 0 < epochs < float("inf"):
            raise InvalidInputError(f"epochs must be a positive number, got {epochs!r}")
        crops = Crops(clips, config.n_samples, config.batch_size, config.seed)
        config = replace(config, steps=max(1, round(float(epochs) * crops.steps_per_epoch)))
    return config


def _identity(
    config: PretrainConfig, clips: list[Clip], models: _Models, targets: Features | None
) -> dict[str, Any]:
    """What must be the same when a training is resumed."""
    hashes = {name: model and weights_sha256(model.encoder) for name, model in models._asdict().items()}
    return {
        "config": asdict(config),
        "corpus": fingerprint(clips),
        "features": targets.identity if targets else None,
        **hashes,
    }


def _facts(config: PretrainConfig, clips: list[Clip], models: _Models, step: int) -> dict[str, Any]:
    """What a person who finds the weights would ask."""
    weights = {
        "BYOL-S": config.byol_weight,
        "contrastive learning": config.contrastive_weight,
        "prediction of features": config.hybrid_weight,
        "distillation": config.teacher_weight + config.teacher_time_step_weight,
    }
    return {
        "method": " and ".join(name for name, weight in weights.items() if weight),
        "recipe": asdict(config),
        "steps": step,
        "crops": step * config.batch_size,
        "corpus": {"clips": len(clips), "hours": round(_hours(clips), 3), "sha256": fingerprint(clips)},
        "teacher": models.teacher.source if models.teacher else None,
        "init": models.init.source if models.init else None,
        "init_facts": models.init.training_facts if models.init else None,
        "command": " ".join(sys.argv[1:]) if Path(sys.argv[0]).stem == "serab-byols" else None,
    }


def _hours(clips: list[Clip]) -> float:
    return sum(clip.duration_s for clip in clips) / 3600


def _write_weights(network: PretrainNetwork, path: Path, facts: dict[str, Any]) -> None:
    config = network.config
    encoder = create_encoder(config.encoder, **config.encoder_config)
    encoder.load_state_dict(network.encoder.state_dict())
    model = ByolsModel(encoder, create_frontend("torch"), statistics=network.views.norm.statistics)
    save_checkpoint(model, path, training_facts=facts)
