"""``serab-byols pretrain``: weights from unlabelled audio."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from serab_byols.cli.options import (
    EXIT_BAD_FILES,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    Commands,
    mean_std,
    say,
)
from serab_byols.encoders import ENCODERS
from serab_byols.errors import InvalidInputError
from serab_byols.pretrain.config import SCHEDULES, PretrainConfig

_DEFAULTS = PretrainConfig()


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "pretrain",
        help="train an encoder on unlabelled audio",
        description="Train an encoder on unlabelled audio by BYOL-S. The same command again resumes. "
        "Beside OUT.safetensors come OUT.training.ckpt, to resume from, OUT.log.csv and OUT.loss.png.",
        epilog="Exit status: 0 when all went well, 1 when some files could not be read (they are listed "
        "on stderr and in OUT.errors.csv), 2 when nothing could be started, 130 when interrupted (what "
        "was learnt so far is saved).",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="AUDIO",
        help="audio files, folders (searched recursively), or CSV lists with a column 'path'; what is "
        "given several times is drawn from as often",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="OUT.safetensors")
    _add_network(parser)
    _add_course(parser)
    _add_views(parser)
    _add_tasks(parser)
    _add_machine(parser)
    parser.set_defaults(run=_pretrain, error_status=EXIT_USAGE)


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--encoder", choices=list(ENCODERS), help=f"default: {_DEFAULTS.encoder}")
    group.add_argument("-d", "--size", type=int, dest="d", help="width of the encoder 'default' (2048)")
    group.add_argument(
        "--encoder-config", type=_json, metavar="JSON", help="further arguments of the encoder"
    )
    group.add_argument("--dropout", type=float, help="of the encoder (default: its own)")
    group.add_argument(
        "--init",
        metavar="CKPT",
        help="begin with the weights of this checkpoint, whose encoder, size and statistics are then used",
    )


def _add_course(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("course")
    _number(group, "steps", "optimiser steps in all")
    group.add_argument("--epochs", type=float, help="instead of --steps")
    _number(group, "batch-size", "crops a step, over all processes")
    _number(group, "crop-s", "length of a crop in seconds")
    _number(group, "seed", "decides everything that is random")
    _number(group, "lr", "peak learning rate of AdamW")
    _number(group, "beta2", "of AdamW")
    group.add_argument(
        "--lr-schedule", choices=SCHEDULES, default=_DEFAULTS.lr_schedule, help="default: %(default)s"
    )
    _number(group, "warmup-steps", "of linear growth of the learning rate")
    _number(group, "weight-decay", "of AdamW")
    _number(group, "ema-decay", "of the target network")
    group.add_argument(
        "--ema-schedule", choices=SCHEDULES, default=_DEFAULTS.ema_schedule, help="default: %(default)s"
    )


def _add_views(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("views")
    _number(group, "mixup-ratio", "largest share of an earlier crop; 0: none")
    _number(group, "mixup-memory", "how many earlier crops there are to mix with")
    group.add_argument(
        "--crop-scale",
        type=_pair,
        default=_DEFAULTS.crop_scale,
        metavar="LOW,HIGH",
        help="height and width of the random resize crop, relative to the input (default: 0.6,1.5)",
    )
    _number(group, "crop-virtual-time", "width of the canvas the crop is taken from, relative to the input")
    _number(group, "fader-gain", "random linear fader of BYOL-A v2, in standard deviations; 0: none")
    _number(group, "equalizer-gain", "random curve over the mel bands, in standard deviations; 0: none")
    _number(group, "view-probability", "share of the views that mixup and resize crop are applied to")
    _number(group, "silence-probability", "share of the crops that begin or end in digital silence")
    group.add_argument(
        "--no-post-norm", action="store_false", dest="post_norm", help="leave out the post-norm"
    )
    group.add_argument(
        "--statistics", type=mean_std, metavar="MEAN,STD", help="of the log-mel (default: learnt in passing)"
    )
    group.add_argument("--views", type=Path, metavar="PNG", help="draw some of the first views")


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to learn from")
    group.add_argument("--byol-weight", type=float, help="of BYOL's loss (default: 1, with a teacher 0)")
    group.add_argument(
        "--hybrid",
        metavar="FEATURES",
        help="predict features too (Hybrid BYOL-S): 'log-mel-statistics' of every crop, 'compare2016' for "
        "openSMILE's ComParE 2016 functionals of every clip, or a .csv or .parquet table of the clips with a "
        "column 'file' and numbers",
    )
    group.add_argument("--hybrid-weight", type=float, help="of that loss (default: 1)")
    group.add_argument(
        "--teacher", metavar="CKPT", help="checkpoint whose embeddings to match (distillation)"
    )
    group.add_argument("--teacher-weight", type=float, help="of that loss (default: 1)")
    group.add_argument(
        "--teacher-frame-weight", type=float, help="of matching features before pooling (default: 1)"
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--accelerator", default="cpu", help="cpu, gpu, mps or auto (default: %(default)s)")
    group.add_argument("--devices", type=int, default=1, help="processes a machine (default: %(default)s)")
    group.add_argument("--nodes", type=int, default=1, help="machines (default: %(default)s)")
    group.add_argument("--strategy", default="auto", help="as Lightning names it (default: %(default)s)")
    group.add_argument(
        "--precision",
        choices=("32-true", "bf16-mixed", "16-mixed"),
        default="32-true",
        help="default: %(default)s",
    )
    group.add_argument("--threads", type=int, help="of each process (default: torch's)")
    group.add_argument(
        "--cache-gb", type=float, default=4.0, help="decoded audio kept in memory (default: %(default)g)"
    )
    group.add_argument(
        "--checkpoint-steps", type=int, default=500, help="how often to save (default: %(default)s)"
    )
    group.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after so long, to be resumed"
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar")
    group.add_argument("--restart", action="store_true", help="begin anew even if OUT.training.ckpt is there")


def _number(group: Any, option: str, what: str) -> None:
    default = getattr(_DEFAULTS, option.replace("-", "_"))
    group.add_argument(
        f"--{option}", type=type(default), default=default, help=f"{what} (default: %(default)g)"
    )


def _pair(text: str) -> tuple[float, float]:
    try:
        low, high = (float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected LOW,HIGH, got {text!r}") from None
    return low, high


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected JSON such as '{{\"d\": 512}}', got {text!r}")
    return value


def _config(options: argparse.Namespace) -> PretrainConfig:
    chosen = {name: getattr(options, name) for name in _DEFAULTS.as_dict() if hasattr(options, name)}
    if options.init and any(v is not None for v in (options.encoder, options.d, options.encoder_config)):
        raise InvalidInputError("--encoder, --size and --encoder-config are decided by the weights of --init")
    chosen["encoder"] = options.encoder or _DEFAULTS.encoder
    chosen["encoder_config"] = options.encoder_config or {}
    if options.d is not None:
        if chosen["encoder"] != "default":
            raise InvalidInputError(
                f"--size is the width of the encoder 'default', not of {options.encoder!r}"
            )
        chosen["encoder_config"] = {**chosen["encoder_config"], "d": options.d}
    given = {
        "hybrid_weight": options.hybrid,
        "teacher_weight": options.teacher,
        "teacher_frame_weight": options.teacher,
    }
    for name, source in given.items():
        if source is None and chosen[name]:
            raise InvalidInputError(f"--{name.replace('_', '-')} needs --{name.split('_')[0]}")
        if chosen[name] is None:
            chosen[name] = 0.0 if source is None else 1.0
    if chosen["byol_weight"] is None:
        chosen["byol_weight"] = 0.0 if options.teacher else 1.0
    return PretrainConfig(**chosen)


def _pretrain(options: argparse.Namespace) -> int:
    import torch

    from serab_byols.pretrain import Machine, pretrain

    config = _config(options)
    if options.threads is not None and options.threads < 1:
        raise InvalidInputError(f"--threads must be at least 1, got {options.threads}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    machine = Machine(
        accelerator=options.accelerator,
        devices=options.devices,
        n_nodes=options.nodes,
        strategy=options.strategy,
        precision=options.precision,
        cache_gb=options.cache_gb,
        checkpoint_steps=options.checkpoint_steps,
        max_minutes=options.minutes,
        bar=not options.quiet,
    )
    result = pretrain(
        options.inputs,
        options.output,
        config,
        machine=machine,
        teacher=options.teacher,
        start=options.init,
        features=options.hybrid,
        views=options.views,
        restart=options.restart,
        epochs=options.epochs,
        say=say,
    )
    if not result.is_main:
        return EXIT_OK
    if result.interrupted:
        say(f"interrupted at step {result.step} of {result.n_steps}; the same command resumes")
        return EXIT_INTERRUPTED
    state = "" if result.finished else "; the same command resumes"
    print(f"{result.weights}: {result.encoder} after step {result.step} of {result.n_steps}{state}")
    return EXIT_BAD_FILES if result.bad_files else EXIT_OK
