"""Models as files for other runtimes: ONNX, and programs of ``torch.export``."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental._config

from serab_byols._version import __version__
from serab_byols.atomic_write import atomic_write
from serab_byols.checkpoint import weights_sha256
from serab_byols.encoders import CvT, unwrapped
from serab_byols.errors import InvalidInputError, MissingExtraError, missing_extra
from serab_byols.frontend import HOP_SAMPLES, RECIPE
from serab_byols.integrations.export_graph import ExportGraph
from serab_byols.model import ByolsModel

OPSET = 18
INPUT, OUTPUT = "waveform", "embedding"
METADATA_FILE = "serab_byols.json"
"""Name under which a ``.pt2`` file holds the metadata, for ``torch.export.load(path, extra_files=...)``."""


def export_model(model: ByolsModel, path: str | os.PathLike[str]) -> Path:
    """Write a model for other runtimes: waveform (batch, samples) float32 to embedding (batch, D).

    Front end, normalisation and the padding of short clips are inside; batch and length are free. Numbers
    are those of ``get_scene_embeddings``, for ``cvt`` up to ten minutes, beyond which that function cuts
    scenes into windows and a graph does not. The file says what it holds (:func:`metadata`) and appears whole
    or not at all.

    Args:
        model: with a ``normalization`` that depends on the clip alone.
        path: ends in ``.onnx`` (opset 18, for ONNX Runtime and others) or ``.pt2`` (for
            ``torch.export.load``, on the CPU).

    Returns:
        The path.

    Raises:
        InvalidInputError: another ending; a normalisation that shares statistics between clips; a front end
            of the caller's own; an encoder that was modified such that torch cannot export it.
        MissingExtraError: the packages of the extra ``onnx`` are not installed, or torch is older than 2.13.
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    writers = {".onnx": _write_onnx, ".pt2": _write_program}
    if path.suffix not in writers:
        raise InvalidInputError(f"an exported model's name ends in {' or '.join(writers)}, got {path.name!r}")
    with atomic_write(path) as scratch:
        writers[path.suffix](model, scratch)
    return path


def torch_can_export() -> bool:
    """Whether torch is new enough to trace a model without assumptions of its sizes, 2.13 or newer."""
    return tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


def export_program(model: ByolsModel) -> torch.export.ExportedProgram:
    """The model as a program of ``torch.export`` for the CPU, with free batch and length.

    Raises:
        InvalidInputError: as for :func:`export_model`.
        MissingExtraError: torch is older than 2.13.
    """
    if not torch_can_export():
        raise MissingExtraError(
            f"exporting a model needs torch 2.13 or newer, this is {torch.__version__}: pip install -U torch"
        )
    config: Any = torch.fx.experimental._config
    graph = ExportGraph(model)
    example = torch.zeros(2, model.sample_rate)
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples")}
    # "Size oblivious": torch would otherwise assume that a size is not 1 where it was not 1 in the example.
    with _quiet(), config.patch(backed_size_oblivious=True):
        try:
            program = torch.export.export(graph, (example,), dynamic_shapes={INPUT: dynamic})
        except Exception as error:  # torch has no common type for what a tracer cannot do
            raise InvalidInputError(
                f"torch cannot export this {model.encoder.name!r} encoder: {_first_line(error)}"
            ) from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # files and lines of this machine
    return program


def metadata(model: ByolsModel) -> dict[str, str]:
    """What an exported file says of itself, as texts; numbers and structures are JSON.

    Example:
        >>> facts = metadata(serab_byols.load_model())
        >>> facts["encoder"], facts["embedding_size"], facts["encoder_config"]
        ('default', '512', '{"d": 512}')
    """
    rule = model.resolved_normalization
    facts: dict[str, Any] = {
        "sample_rate_hz": model.sample_rate,
        "embedding_size": model.embedding_size,
        "min_samples": model.min_samples,
        "max_samples": _max_samples(model),
        "encoder": model.encoder.name,
        "encoder_config": model.encoder.config,
        "frontend": RECIPE,
        "normalization": rule if isinstance(rule, str) else rule._asdict(),
        "statistics": None if model.statistics is None else model.statistics._asdict(),
        "weights": model.source,
        "weights_sha256": weights_sha256(unwrapped(model.encoder)),
        "written_by": f"serab_byols {__version__}",
    }
    return {key: fact if isinstance(fact, str) else json.dumps(fact) for key, fact in facts.items()}


def _max_samples(model: ByolsModel) -> int | None:
    """The longest waveform that the graph embeds as ``get_scene_embeddings`` does; None: any length."""
    encoder = unwrapped(model.encoder)
    if not isinstance(encoder, CvT) or encoder.window_columns is None:
        return None
    return (encoder.window_columns + 1) * HOP_SAMPLES - 1  # of so many columns and one


def _write_program(model: ByolsModel, path: Path) -> None:
    program = export_program(model)
    with path.open("wb") as file, _quiet():
        torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(metadata(model))})


def _write_onnx(model: ByolsModel, path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_extra(error.name or "onnx", "onnx", "exporting to ONNX") from error
    program = export_program(model)
    with _quiet():
        exported = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert exported is not None
        proto = exported.model_proto
    _describe(proto, model)
    onnx.helper.set_model_props(proto, metadata(model))
    onnx.save(proto, path)


def _describe(proto: Any, model: ByolsModel) -> None:
    """Readable names of the axes, and none of the exporter's notes, which hold the paths of this machine."""
    proto.producer_name, proto.producer_version = "serab_byols", __version__
    proto.doc_string = f"BYOL-S speech embeddings of mono audio at {model.sample_rate} Hz"
    batch, samples = (dim.dim_param for dim in proto.graph.input[0].type.tensor_type.shape.dim)
    names = {batch: "batch", samples: "samples"}
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = names[dim.dim_param]
    _strip(proto.graph)
    for function in proto.functions:
        _strip(function)


def _strip(graph: Any) -> None:
    for field in ("value_info", "metadata_props", "doc_string"):
        graph.ClearField(field)
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracer's and the exporter's notes on their own workings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
