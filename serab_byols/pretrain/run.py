"""A pretraining from files to weights: begin or resume, train, write what came of it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from serab_byols.atomic_write import atomic_write
from serab_byols.checkpoint import load_model, save_checkpoint, weights_sha256
from serab_byols.encoders import Encoder, create_encoder
from serab_byols.errors import CheckpointError, InvalidInputError
from serab_byols.frontend import create_frontend
from serab_byols.model import ByolsModel
from serab_byols.pretrain.callbacks import Bar, Checkpoints, CsvLog, DivergenceGuard, Say, SpreadGuard
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.corpus import Clip, CropReader, Crops, fingerprint, scan
from serab_byols.pretrain.distributed import Share
from serab_byols.pretrain.figures import draw_loss, draw_views
from serab_byols.pretrain.hybrid import Features, load_features
from serab_byols.pretrain.machine import Machine, make_trainer, quiet_lightning
from serab_byols.pretrain.module import PretrainModule
from serab_byols.pretrain.views import Draws, Views

N_VIEWS_DRAWN = 8


class Outputs:
    """The files of a training, beside the weights' file and named after it."""

    def __init__(self, weights: Path) -> None:
        if weights.suffix != ".safetensors":
            raise InvalidInputError(
                f"weights are written to a file ending in .safetensors, got {weights.name!r}"
            )
        if not weights.parent.is_dir():
            raise InvalidInputError(f"the folder {weights.parent} does not exist")
        self.weights = weights
        self.training = weights.with_suffix(".training.ckpt")
        self.log = weights.with_suffix(".log.csv")
        self.curve = weights.with_suffix(".loss.png")
        self.errors = weights.with_suffix(".errors.csv")


@dataclass(frozen=True)
class Result:
    """What a call of :func:`pretrain` did.

    Attributes:
        weights: the file that ``load_model`` takes.
        encoder: the name of what was trained.
        step: optimiser steps done in all.
        n_steps: that there are to be.
        interrupted: whether a signal ended it.
        bad_files: names and reasons of what could not be read.
        is_main: whether this process is the one of several that speaks and writes.
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
    start: str | Path | None = None,
    features: str | None = None,
    views: str | Path | None = None,
    epochs: float | None = None,
    restart: bool = False,
    say: Say = print,
) -> Result:
    """Train an encoder on unlabelled audio (BYOL-S, arXiv 2206.12038), or go on where it stopped.

    Beside ``output`` there will be ``.training.ckpt`` (to resume from), ``.log.csv``, ``.loss.png``
    and, if files are bad, ``.errors.csv``. The same call again resumes, and continues exactly.

    Args:
        inputs: audio files, folders, or CSV lists with a column ``path`` and optionally ``start`` and
            ``end`` in seconds. What is given several times is drawn from as often.
        output: where the weights go, a file ending in ``.safetensors``.
        config: what to do.
        machine: where and how to run it.
        teacher: a checkpoint to follow, for the weights ``teacher_weight`` and ``teacher_frame_weight``.
        start: a checkpoint whose weights to begin with, instead of random ones. Its encoder and size
            take the place of the config's, and so do its statistics where the config has none.
        features: for ``hybrid_weight``: ``"log-mel-statistics"``, ``"compare2016"`` or a table; see
            :func:`serab_byols.pretrain.hybrid.load_features`.
        views: a PNG to draw some of the first views into.
        epochs: how often to go through the corpus, instead of ``config.steps``.
        restart: begin anew, whatever lies there.
        say: told what a person would like to know.

    Raises:
        InvalidInputError: an option, a list or a table that does not fit, or no readable audio.
        CheckpointError: what lies there was begun in another way.
        MissingExtraError: a package of the extras ``pretrain`` or ``hybrid`` is missing.
        DivergedError: the loss became infinite or NaN.
    """
    config, machine, outputs = config or PretrainConfig(), machine or Machine(), Outputs(Path(output))
    for given in (start, teacher):
        if given and _is_same_file(Path(given), outputs.weights):
            raise InvalidInputError(f"{given} is what to learn from: give another output, it would be lost")
    first = load_model(start) if start else None
    if first is not None:
        config = _starting_from(first, config)
    bad_files: list[tuple[str, str]] = []
    clips = scan(inputs, lambda name, reason: bad_files.append((name, reason)))
    if epochs is not None:
        config = replace(config, steps=_steps(clips, config, epochs))
    followed = load_model(teacher).encoder if teacher else None
    table = load_features(features, clips, lambda *error: bad_files.append(error)) if features else None
    initial = first.encoder if first is not None else None
    state = _state(outputs, restart, _identity(config, clips, followed, initial, table))
    # Of several processes, Lightning starts the others with the same command.
    is_main = getattr(rank_zero_only, "rank", 0) == 0
    say = say if is_main else _silent
    module = _module(config, clips, machine, followed, initial, table, bad_files, say)
    module.first_step = state.step
    _say_beginning(say, config, clips, module, state, bad_files)
    if views is not None and is_main:
        _draw_first_views(config, module.reader, Path(views))
    stopper = _fit(module, outputs, machine, state, say)
    step = module.trainer.global_step
    result = Result(
        outputs.weights, config.encoder, step, config.steps, stopper.interrupted, bad_files, is_main
    )
    if is_main:
        facts = _facts(config, clips, step, teacher, first, features)
        _write(module, outputs, result, facts, is_resumed=state.step > 0)
    return result


def _starting_from(model: ByolsModel, config: PretrainConfig) -> PretrainConfig:
    """The config with what the weights decide."""
    encoder = model.encoder
    statistics = config.statistics or model.statistics
    return replace(
        config,
        encoder=encoder.name,
        encoder_config=encoder.config,
        statistics=None if statistics is None else (statistics[0], statistics[1]),
    )


def _is_same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _silent(_: str) -> None:
    pass


def _steps(clips: list[Clip], config: PretrainConfig, epochs: float) -> int:
    if not 0 < epochs < float("inf"):
        raise InvalidInputError(f"epochs must be a positive number, got {epochs}")
    crops = Crops(clips, config.n_samples, config.batch_size, config.seed)
    return max(1, round(epochs * crops.steps_an_epoch))


@dataclass(frozen=True)
class _State:
    """Where a training stands: its checkpoint, if there is one, and what that says of itself."""

    path: Path | None
    step: int
    identity: dict[str, Any]


def _identity(
    config: PretrainConfig,
    clips: list[Clip],
    teacher: Encoder | None,
    start: Encoder | None,
    table: Features | None,
) -> dict[str, Any]:
    """What must be the same when a training is resumed."""
    return {
        "config": config.as_dict(),
        "corpus": fingerprint(clips),
        "teacher": weights_sha256(teacher) if teacher else None,
        "start": weights_sha256(start) if start else None,
        "features": table.identity if table else None,
    }


def _state(outputs: Outputs, restart: bool, identity: dict[str, Any]) -> _State:
    if restart or not outputs.training.exists():
        for begun_before in (outputs.training, outputs.log):
            begun_before.unlink(missing_ok=True)
        return _State(None, 0, identity)
    try:
        saved = torch.load(outputs.training, map_location="cpu", weights_only=True)
        begun, step = saved["serab_byols"], int(saved["global_step"])
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise CheckpointError(
            f"{outputs.training} is damaged and cannot be resumed from; --restart begins anew"
        ) from error
    _check_same(outputs.training, begun, identity)
    return _State(outputs.training, step, identity)


def _check_same(path: Path, begun: dict[str, Any], now: dict[str, Any]) -> None:
    """A training that is resumed must be the one that was begun."""
    changes = [
        f"{name} was {begun['config'].get(name)!r}, now {value!r}"
        for name, value in now["config"].items()
        if begun["config"].get(name) != value
    ]
    others = ("corpus", "teacher", "start", "features")
    changes += [f"{name}: not the same" for name in others if begun.get(name) != now[name]]
    if changes:
        raise CheckpointError(
            f"{path} was begun in another way: {'; '.join(changes)}. Give another output, the same options "
            "to resume, or --restart to begin anew"
        )


def _module(
    config: PretrainConfig,
    clips: list[Clip],
    machine: Machine,
    teacher: Encoder | None,
    start: Encoder | None,
    table: Features | None,
    bad_files: list[tuple[str, str]],
    say: Say,
) -> PretrainModule:
    def on_error(name: str, reason: str) -> None:
        bad_files.append((name, reason))
        say(f"left out: {reason}")

    crops = Crops(clips, config.n_samples, config.batch_size, config.seed)
    cache_bytes = int(machine.cache_gb * 1e9 / max(machine.devices, 1))
    reader = CropReader(crops, cache_bytes, on_error)
    return PretrainModule(config, reader, table, teacher, start)


def _draw_first_views(config: PretrainConfig, reader: CropReader, picture: Path) -> None:
    """What the network would see of the first crops, were there statistics and crops to mix with."""
    places = reader.crops.places(0)
    waveforms = torch.from_numpy(np.stack([reader.read(*place)[1] for place in places]))
    views = Views(config, n_to_learn=len(places))
    log_mel = views.norm(views.frontend(waveforms))
    views.augment.memory.add(log_mel)
    share = Share(rank=0, n_processes=1, n_own=len(places))
    seen = views(waveforms, Draws(config.seed, 0, share, waveforms.device))
    names = [Path(reader.crops.clips[clip].segment.file).name for clip, _ in places[:N_VIEWS_DRAWN]]
    draw_views(names, log_mel, seen, picture)


def _say_beginning(
    say: Say,
    config: PretrainConfig,
    clips: list[Clip],
    module: PretrainModule,
    state: _State,
    bad_files: list[tuple[str, str]],
) -> None:
    for _, reason in bad_files:
        say(f"left out: {reason}")
    hours = sum(clip.duration_s for clip in clips) / 3600
    crops = module.reader.crops
    say(
        f"{len(clips)} clips, {hours:.2f} h, {crops.n_an_epoch} crops of {config.crop_s:g} s an epoch; "
        f"{config.steps} steps of {config.batch_size} are "
        f"{config.steps * config.batch_size / crops.n_an_epoch:.1f} epochs"
    )
    if state.step:
        say(f"resumed at step {state.step} of {config.steps}")


def _fit(module: PretrainModule, outputs: Outputs, machine: Machine, state: _State, say: Say) -> Checkpoints:
    stopper = Checkpoints(
        outputs.training, machine.checkpoint_steps, machine.max_minutes * 60, state.identity
    )
    callbacks = [CsvLog(outputs.log), Bar(machine.bar), SpreadGuard(say), DivergenceGuard(), stopper]
    with quiet_lightning():
        trainer = make_trainer(machine, module.config.steps, callbacks)
        trainer.fit(module, ckpt_path=state.path, weights_only=True)
    return stopper


def _methods(config: PretrainConfig) -> list[str]:
    return [
        name
        for name, weight in (
            ("BYOL-S", config.byol_weight),
            ("prediction of features", config.hybrid_weight),
            ("distillation", config.teacher_weight + config.teacher_frame_weight),
        )
        if weight
    ]


def _facts(
    config: PretrainConfig,
    clips: list[Clip],
    step: int,
    teacher: str | Path | None,
    first: ByolsModel | None,
    features: str | None,
) -> dict[str, Any]:
    """What a person who finds the weights would ask."""
    return {
        "method": " and ".join(_methods(config)),
        "recipe": config.as_dict(),
        "steps": step,
        "crops": step * config.batch_size,
        "corpus": {
            "clips": len(clips),
            "hours": round(sum(clip.duration_s for clip in clips) / 3600, 3),
            "sha256": fingerprint(clips),
        },
        "teacher": Path(teacher).name if teacher else None,
        "start": first.source if first else None,
        "start_facts": first.training_facts if first else None,
        "features": Path(features).name if features else None,
        "command": " ".join(sys.argv[1:]) if Path(sys.argv[0]).stem == "serab-byols" else None,
    }


def _write(
    module: PretrainModule, outputs: Outputs, result: Result, facts: dict[str, Any], is_resumed: bool
) -> None:
    c = module.config
    encoder = create_encoder(c.encoder, **c.encoder_config)
    encoder.load_state_dict(module.encoder.state_dict())
    model = ByolsModel(encoder, create_frontend("torch"), statistics=module.views.norm.statistics)
    save_checkpoint(model, outputs.weights, training_facts=facts)
    if outputs.log.exists():
        with atomic_write(outputs.curve) as scratch:
            draw_loss(outputs.log, scratch)
    _write_errors(outputs.errors, result.bad_files, is_resumed)


def _write_errors(path: Path, bad_files: list[tuple[str, str]], is_resumed: bool) -> None:
    """List the bad files of all of the training: those that an earlier call found stay."""
    if is_resumed and path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            earlier = [(row[0], row[1]) for row in csv.reader(file) if len(row) == 2]
        bad_files = list(dict.fromkeys([*earlier[1:], *bad_files]))
    if not bad_files:
        path.unlink(missing_ok=True)
        return
    with (
        atomic_write(path) as scratch,
        scratch.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file).writerows([("file", "error"), *bad_files])
