"""``serab-byols pretrain``: weights from unlabelled audio."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from serab_byols.cli.messages import log
from serab_byols.cli.options import (
    EXIT_BAD_FILES,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    Commands,
    add_cache_dir,
    mean_std,
)
from serab_byols.encoders import ENCODERS
from serab_byols.errors import InvalidInputError
from serab_byols.pretrain import Machine, PretrainConfig, pretrain
from serab_byols.pretrain.config import SCHEDULES
from serab_byols.pretrain.machine import PRECISIONS, STRATEGIES


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "pretrain",
        help="train an encoder on unlabelled audio",
        usage="%(prog)s [OPTION ...] -o OUT AUDIO [AUDIO ...]",
        description="Train an encoder on unlabelled audio by BYOL-S. The same command again resumes. "
        "Beside OUT.safetensors come OUT.training.ckpt, to resume from, OUT.log.csv and OUT.loss.png.",
        examples=(
            "serab-byols pretrain recordings -o mine.safetensors --size 512 --minutes 60",
            "serab-byols pretrain recordings -o adapted.safetensors --init byols-audiontt-512-distilled",
            "serab-byols pretrain recordings -o small.safetensors --size 128 --teacher byols-audiontt-2048",
        ),
        exit_status="0 when all went well, 1 when some files could not be read (they are listed "
        "on stderr and in OUT.errors.csv), 2 when nothing could be started, 130 when interrupted (what "
        "was learned so far is saved).",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="AUDIO",
        help="audio files, folders (searched recursively), or CSV lists with a column 'path'; what is "
        "given several times is drawn from as often",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="OUT.safetensors")
    _add_network(parser.add_argument_group("network"))
    _add_optimisation(parser.add_argument_group("optimisation"))
    _add_views(parser.add_argument_group("views"))
    _add_tasks(parser.add_argument_group("what to learn from"))
    _add_machine(parser.add_argument_group("machine"))
    parser.set_defaults(run=_pretrain, error_status=EXIT_USAGE)


def _add_network(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--encoder", choices=list(ENCODERS), help=f"default: {PretrainConfig.encoder}")
    group.add_argument(
        "-d", "--size", type=int, metavar="N", help="embedding size of the encoder 'default' (2048)"
    )
    group.add_argument(
        "--encoder-config", type=_json, metavar="JSON", help="other arguments of the encoder, a JSON object"
    )
    _add_fields(group, PretrainConfig, "dropout", type=float, metavar="X")
    group.add_argument(
        "--init",
        metavar="CKPT",
        help="begin with the weights of this checkpoint, whose encoder, size and statistics are then used",
    )


def _add_optimisation(group: argparse._ArgumentGroup) -> None:
    _add_fields(group, PretrainConfig, "steps", "batch_size", "crop_s", "seed", "lr", "beta2")
    _add_fields(group, PretrainConfig, "lr_schedule", choices=SCHEDULES)
    _add_fields(group, PretrainConfig, "warmup_steps", "weight_decay", "ema_decay")
    _add_fields(group, PretrainConfig, "ema_schedule", choices=SCHEDULES)
    group.add_argument(
        "--epochs", type=float, metavar="X", help="passes through the corpus, instead of --steps"
    )


def _add_views(group: argparse._ArgumentGroup) -> None:
    _add_fields(group, PretrainConfig, "mixup_ratio", "mixup_memory")
    _add_fields(group, PretrainConfig, "crop_scale", type=_pair, metavar="LOW,HIGH")
    _add_fields(group, PretrainConfig, "crop_virtual_time", "fader_gain", "equalizer_gain")
    _add_fields(group, PretrainConfig, "view_probability", "silence_probability")
    group.add_argument(
        "--no-post-norm", action="store_false", dest="post_norm", help="leave out the post-normalisation"
    )
    _add_fields(group, PretrainConfig, "statistics", type=mean_std, metavar="MEAN,STD")
    group.add_argument("--views", type=Path, metavar="PNG", help="draw some of the first views")


def _add_tasks(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--byol-weight", type=float, metavar="X", help="of BYOL's loss (default: 1, with a teacher 0)"
    )
    _add_fields(group, PretrainConfig, "contrastive_weight")
    group.add_argument(
        "--hybrid",
        metavar="FEATURES",
        help="predict features too (Hybrid BYOL-S): 'log-mel-statistics' of every crop, 'compare2016' for "
        "openSMILE's ComParE 2016 functionals of every clip, or a .csv or .parquet table of the clips with a "
        "column 'file' and numbers",
    )
    group.add_argument("--hybrid-weight", type=float, metavar="X", help="of that loss (default: 1)")
    group.add_argument(
        "--teacher", metavar="CKPT", help="checkpoint whose embeddings to match (distillation)"
    )
    group.add_argument("--teacher-weight", type=float, metavar="X", help="of that loss (default: 1)")
    group.add_argument(
        "--teacher-time-step-weight",
        type=float,
        metavar="X",
        help="of matching the features per time step, before pooling (default: 1)",
    )


def _add_machine(group: argparse._ArgumentGroup) -> None:
    _add_fields(group, Machine, "accelerator", "devices")
    group.add_argument(
        "--nodes", type=int, metavar="N", default=1, dest="n_nodes", help="machines (default: %(default)s)"
    )
    _add_fields(group, Machine, "strategy", choices=STRATEGIES)
    _add_fields(group, Machine, "precision", choices=PRECISIONS)
    group.add_argument("--threads", type=int, metavar="N", help="of each process (default: torch's)")
    _add_fields(group, Machine, "cache_gb", "checkpoint_steps")
    group.add_argument(
        "--minutes",
        type=float,
        default=Machine.max_minutes,
        dest="max_minutes",
        metavar="X",
        help="stop after this time, to be resumed",
    )
    add_cache_dir(group)
    group.add_argument("--quiet", action="store_false", dest="bar", help="no progress bar")
    group.add_argument("--restart", action="store_true", help="begin anew even if OUT.training.ckpt is there")


def _add_fields(group: argparse._ArgumentGroup, owner: type, *names: str, **options: Any) -> None:
    """Options for fields of a dataclass, with its defaults and what its docstring says of them."""
    said = dict(re.findall(r"^    (\w+): (.*(?:\n     .*)*)", inspect.getdoc(owner) or "", re.MULTILINE))
    for name in names:
        default = getattr(owner, name)
        shown = f"{default:g}" if isinstance(default, float) else str(default).strip("()").replace(" ", "")
        metavar = None if "choices" in options else {int: "N", float: "X", str: "NAME"}.get(type(default))
        what = " ".join(said.get(name, "").replace("``", "").split()).rstrip(".")
        group.add_argument(
            f"--{name.replace('_', '-')}",
            **{
                "type": type(default),
                "metavar": metavar,
                "default": default,
                "help": f"{what} (default: {shown})",
            }
            | options,
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


def _values(options: argparse.Namespace, owner: type) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(owner)}


def _config(options: argparse.Namespace) -> PretrainConfig:
    values = _values(options, PretrainConfig)
    if options.init and any(v is not None for v in (options.encoder, options.size, options.encoder_config)):
        raise InvalidInputError("--encoder, --size and --encoder-config are decided by the weights of --init")
    values["encoder"] = options.encoder or PretrainConfig.encoder
    values["encoder_config"] = options.encoder_config or {}
    if options.size is not None:
        if values["encoder"] != "default":
            raise InvalidInputError(
                f"--size is the width of the encoder 'default', not of {options.encoder!r}"
            )
        values["encoder_config"] = {**values["encoder_config"], "d": options.size}
    for name in ("hybrid_weight", "teacher_weight", "teacher_time_step_weight"):
        source = name.split("_")[0]
        is_given = getattr(options, source) is not None
        if values[name] and not is_given:
            raise InvalidInputError(f"--{name.replace('_', '-')} needs --{source}")
        if values[name] is None:
            values[name] = float(is_given)
    if values["byol_weight"] is None:
        values["byol_weight"] = 0.0 if options.teacher else 1.0
    return PretrainConfig(**values)


def _pretrain(options: argparse.Namespace) -> int:
    config = _config(options)
    if options.threads is not None:
        if options.threads < 1:
            raise InvalidInputError(f"--threads must be at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    result = pretrain(
        options.inputs,
        options.output,
        config,
        machine=Machine(**_values(options, Machine)),
        teacher=options.teacher,
        init=options.init,
        features=options.hybrid,
        views=options.views,
        epochs=options.epochs,
        restart=options.restart,
        on_message=log,
    )
    if not result.is_main:
        return EXIT_OK
    if result.interrupted:
        log(f"interrupted at step {result.step} of {result.n_steps}; the same command resumes")
        return EXIT_INTERRUPTED
    state = "" if result.finished else "; the same command resumes"
    print(f"{result.weights}: {result.encoder} after step {result.step} of {result.n_steps}{state}")
    return EXIT_BAD_FILES if result.bad_files else EXIT_OK
