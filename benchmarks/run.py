"""How fast and how frugal the library is on this machine, beside what else there is.

``make bench`` or ``python benchmarks/run.py --help``. Competitors run in turn (A B C A B C ...) in one
process; tables have medians, and the ratios are of times from the same round. The weights are random,
which changes no speed.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_encoder
import reference
import soundfile
import torch
from measure import Row, Section, alternate, flops, machine, paired_ratios, relative_difference

from serab_byols import (
    ByolsModel,
    create_model,
    embed_files,
    get_scene_embeddings,
    get_timestamp_embeddings,
    load_model,
    save_checkpoint,
)
from serab_byols.corpus.decoding import AudioClip
from serab_byols.encoders import EncoderName
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import HOP_SAMPLES, SAMPLE_RATE_HZ
from serab_byols.integrations.model_export import export_model, export_program, torch_can_export

ENCODERS: dict[str, tuple[EncoderName, dict[str, Any]]] = {
    "default2048": ("default", {"d": 2048}),
    "default512": ("default", {"d": 512}),
    "cvt": ("cvt", {}),
    "resnetish34": ("resnetish34", {}),
    "clstm": ("clstm", {}),
}
FRAME_MS = 1000.0
HOP_MS = 50.0
DENSE = "library, dense"

SCENE_TOLERANCE = 1e-5
TIMESTAMP_TOLERANCE = 1e-4
LOW_PRECISION_TOLERANCE = 5e-2
"""Of the library against the reference, as a fraction of the peak. The last one is for bfloat16, and for
GPUs, whose convolutions round to TF32."""


@dataclass(frozen=True)
class Settings:
    """What the command line asked for."""

    encoders: list[str]
    repeats: int
    quick: bool
    device: torch.device
    dtype: torch.dtype

    @property
    def why_no_onnx(self) -> str:
        """The reason to do without ONNX Runtime, empty if there is none."""
        if onnx_encoder.MISSING:
            return f"{' and '.join(onnx_encoder.MISSING)} not installed"
        return "" if self.exact else "only compared in float32 on the CPU"

    @property
    def exact(self) -> bool:
        """Whether float32 is float32."""
        return self.device.type == "cpu" and self.dtype == torch.float32

    def size(self, full: int, quick: int) -> int:
        """The size of a task."""
        return quick if self.quick else full

    def title(self, text: str) -> str:
        """A section's title, which says where and how it was measured."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{text} [{self.device}, {dtype}, {self.repeats} rounds{', QUICK SIZES' * self.quick}]"

    def model(self, encoder: str) -> ByolsModel:
        """A model in float32 with random weights, the same at every call."""
        torch.manual_seed(0)
        name, config = ENCODERS[encoder]
        return create_model(name, normalization="clip", device=self.device, **config)

    def noise(self, n_clips: int, duration_s: float) -> torch.Tensor:
        """Noise (n_clips, n) at the model's rate."""
        generator = torch.Generator().manual_seed(1)
        samples = torch.randn(n_clips, int(duration_s * SAMPLE_RATE_HZ), generator=generator) * 0.1
        return samples.to(self.device)


# ---- Scenes and timestamps -------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Embeddings to compute: ``n_items`` clips or frames of ``item_s``, from ``audio_s`` of audio."""

    audio_s: float
    item_s: float
    n_items: int
    tolerance: float
    reference: Callable[[ByolsModel], torch.Tensor]
    library: Callable[[ByolsModel], torch.Tensor]
    onnx: Callable[[ByolsModel, onnx_encoder.OnnxEncoder], torch.Tensor]
    dense: Callable[[ByolsModel], torch.Tensor] | None = None


COMPARISON_COLUMNS: dict[str, Callable[[Row], str]] = {
    "encoder": lambda row: row["encoder"],
    "what": lambda row: row["candidate"],
    "median ms": lambda row: f"{row['median_s'] * 1e3:.1f}",
    "times as fast as reference (min-max)": lambda row: _ratio(row.get("speedup")),
    "audio s / s": lambda row: _number(row.get("realtime_factor"), ".0f"),
    "GFLOP/s": lambda row: _number(row.get("gflop_per_s"), ".0f"),
    "of peak": lambda row: _number(row.get("fraction_of_peak"), ".0%"),
    "difference": lambda row: _number(row.get("difference"), ".0e"),
}


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _ratio(ratio: dict[str, float] | None) -> str:
    return "" if ratio is None else f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"


def scenes(settings: Settings) -> Section:
    """Many short clips."""
    n_clips, clip_s = settings.size(32, 2), settings.size(4, 1)
    clips = settings.noise(n_clips, clip_s)
    task = Task(
        audio_s=n_clips * clip_s,
        item_s=clip_s,
        n_items=n_clips,
        tolerance=SCENE_TOLERANCE,
        reference=lambda model: reference.scene_embeddings(clips, model),
        library=lambda model: get_scene_embeddings(clips, model),
        onnx=lambda model, encoder: onnx_encoder.scene_embeddings(clips, model, encoder),
    )
    return _compared(f"scenes: {n_clips} clips of {clip_s} s", task, settings)


def timestamps(settings: Settings) -> Section:
    """The overlapping frames of one clip."""
    duration_s = settings.size(10, 1)
    clips = settings.noise(1, duration_s)

    def library(model: ByolsModel, **options: Any) -> torch.Tensor:
        return get_timestamp_embeddings(clips, model, FRAME_MS, HOP_MS, **options)[0][0]

    has_dense = "dense" in inspect.signature(get_timestamp_embeddings).parameters
    task = Task(
        audio_s=duration_s,
        item_s=FRAME_MS / 1e3,
        n_items=round(duration_s * 1e3 / HOP_MS) + 1,
        tolerance=TIMESTAMP_TOLERANCE,
        reference=lambda model: reference.timestamp_embeddings(clips[0], model, FRAME_MS, HOP_MS),
        library=library,
        onnx=lambda model, encoder: onnx_encoder.timestamp_embeddings(
            clips[0], model, encoder, FRAME_MS, HOP_MS
        ),
        dense=(lambda model: library(model, dense=True)) if has_dense else None,
    )
    title = f"timestamps: one clip of {duration_s} s, frames of {FRAME_MS:g} ms every {HOP_MS:g} ms"
    section = _compared(title, task, settings)
    section.notes.append(
        f"{DENSE}: other embeddings by other operations; its difference is no error, FLOP do not compare"
        if has_dense
        else f"{DENSE}: get_timestamp_embeddings of this version has no argument dense"
    )
    return section


def _compared(title: str, task: Task, settings: Settings) -> Section:
    section = Section(settings.title(title), COMPARISON_COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        for encoder in settings.encoders:
            _say(f"{title}: {encoder}")
            section.rows += _compared_for(encoder, task, settings, section.notes, Path(folder))
    section.notes += [
        "reference: plain encoder in eager float32, one clip at a time (benchmarks/reference.py)",
        "of peak: of the GFLOP/s of the matrix product; difference: from the reference, fraction of its peak",
        f"onnxruntime: {settings.why_no_onnx}"
        if settings.why_no_onnx
        else "onnxruntime: the exported encoder, at its fastest batch size of "
        f"{', '.join(map(str, onnx_encoder.BATCH_SIZES))}; the export is not timed, the library's front end "
        "(once per clip or frame) and normalisation are",
    ]
    return section


def _compared_for(encoder: str, task: Task, settings: Settings, notes: list[str], folder: Path) -> list[Row]:
    model = settings.model(encoder)
    n_frames = 1 + int(task.item_s * SAMPLE_RATE_HZ) // HOP_SAMPLES
    candidates = _candidates(model, n_frames, task, settings, folder / f"{encoder}.onnx")
    differences = _differences(encoder, candidates, task, settings, notes)

    side = settings.size(2048 if settings.device.type == "cpu" else 8192, 512)
    matrix = torch.randn(side, side, device=settings.device, dtype=settings.dtype)
    competitors = {name: candidates[name] for name in differences}
    seconds = alternate({**competitors, "matmul": lambda: matrix @ matrix}, settings.repeats, settings.device)

    peak_gflop_per_s = 2e-9 * side**3 / statistics.median(seconds["matmul"])
    gflop = 1e-9 * task.n_items * flops(model.encoder, n_frames)
    rows: list[Row] = []
    for name, times in seconds.items():
        median_s = statistics.median(times)
        row: Row = {"encoder": encoder, "candidate": name, "seconds": times, "median_s": median_s}
        if name == "matmul":
            row |= {"candidate": f"matmul {side}^3", "gflop_per_s": peak_gflop_per_s}
        else:
            row["speedup"] = paired_ratios(seconds["reference"], times)
            row["realtime_factor"] = task.audio_s / median_s
            row["difference"] = differences[name]
            if name != DENSE:
                row["gflop_per_s"] = gflop / median_s
            if name == "library" or (name != DENSE and settings.exact):  # the peak is one of its dtype
                row["fraction_of_peak"] = gflop / median_s / peak_gflop_per_s
        rows.append(row)
    return rows


def _candidates(
    model: ByolsModel, n_frames: int, task: Task, settings: Settings, onnx_path: Path
) -> dict[str, Callable[[], torch.Tensor]]:
    library_model = copy.deepcopy(model).to(settings.dtype)
    candidates: dict[str, Callable[[], torch.Tensor]] = {
        "reference": partial(task.reference, model),
        "library": partial(task.library, library_model),
    }
    if task.dense is not None:
        candidates[DENSE] = partial(task.dense, library_model)
    if not settings.why_no_onnx:
        encoder = onnx_encoder.OnnxEncoder(model, n_frames, onnx_path)
        candidates[f"onnxruntime, batch {encoder.batch_size}"] = partial(task.onnx, model, encoder)
    return candidates


def _differences(
    encoder: str,
    candidates: dict[str, Callable[[], torch.Tensor]],
    task: Task,
    settings: Settings,
    notes: list[str],
) -> dict[str, float]:
    """How far every candidate is from the reference; also the call that warms it up.

    A speed counts for the same numbers only, so whoever is too far off ends the benchmark.
    """
    expected = candidates["reference"]()
    tolerance = task.tolerance if settings.exact else LOW_PRECISION_TOLERANCE
    differences: dict[str, float] = {}
    for name, candidate in candidates.items():
        try:
            difference = relative_difference(candidate(), expected)
        except InvalidInputError as error:
            if name != DENSE:
                raise
            notes.append(f"{name}, {encoder}: {error}")
            continue
        if name != DENSE and not difference <= tolerance:  # so written, NaN fails too
            raise SystemExit(
                f"{encoder}, {name}: differs from the reference by {difference:.1e} of its peak; "
                f"{tolerance:g} is allowed"
            )
        differences[name] = difference
    return differences


# ---- Exported models -------------------------------------------------------------------------------


def exported(settings: Settings) -> Section:
    """Exported models beside the eager module: waveform to embedding, front end included in all of them."""
    clip_s = settings.size(4, 1)
    section = Section(
        settings.title(f"exported models: clips of {clip_s} s"),
        {
            "encoder": lambda row: row["encoder"],
            "clips": lambda row: str(row["n_clips"]),
            "what": lambda row: row["candidate"],
            "median ms": lambda row: f"{row['median_s'] * 1e3:.1f}",
            "times as fast as the module (min-max)": lambda row: _ratio(row.get("speedup")),
            "difference": lambda row: _number(row.get("difference"), ".0e"),
        },
        notes=["module: model(waveform) in eager mode; the export is not timed"],
    )
    why_not = settings.why_no_onnx or ("" if torch_can_export() else "torch is too old to export models")
    if why_not:
        section.notes.append(f"not measured: {why_not}")
        return section
    for encoder in settings.encoders:
        _say(f"exported models: {encoder}")
        model = settings.model(encoder)
        with tempfile.TemporaryDirectory() as folder:
            run_onnx = onnx_encoder.whole_model(export_model(model, Path(folder) / "model.onnx"))
        program = export_program(model).module()
        for n_clips in (1, 8):
            clips = settings.noise(n_clips, clip_s)
            candidates: dict[str, Callable[[], torch.Tensor]] = {
                "module": partial(model, clips),
                "onnxruntime": partial(run_onnx, clips),
                "torch.export": partial(program, clips),
            }
            with torch.no_grad():
                expected = candidates["module"]()
                differences = {what: relative_difference(run(), expected) for what, run in candidates.items()}
                seconds = alternate(candidates, settings.repeats, settings.device)
            for what, times in seconds.items():
                section.rows.append(
                    {
                        "encoder": encoder,
                        "n_clips": n_clips,
                        "candidate": what,
                        "seconds": times,
                        "median_s": statistics.median(times),
                        "speedup": paired_ratios(seconds["module"], times),
                        "difference": differences[what],
                    }
                )
    return section


# ---- Startup ---------------------------------------------------------------------------------------


def startup(settings: Settings) -> Section:
    """What a user waits for before the first embedding."""
    section = Section(
        settings.title("startup"),
        {
            "what": lambda row: row["what"],
            "median ms": lambda row: f"{row['median_s'] * 1e3:.0f}",
            "min-max": lambda row: f"{min(row['seconds']) * 1e3:.0f}-{max(row['seconds']) * 1e3:.0f}",
        },
        notes=[
            "imports: a new Python process each, start included; the difference is the library's share",
            "load_model: in this process, file cached; the first of each is not counted",
        ],
    )

    def add(what: str, seconds: list[float]) -> None:
        section.rows.append({"what": what, "seconds": seconds, "median_s": statistics.median(seconds)})

    _say("startup")
    imports: dict[str, Callable[[], Any]] = {
        package: partial(subprocess.run, [sys.executable, "-c", f"import {package}"], check=True)
        for package in ("torch", "serab_byols")
    }
    alternate(imports, 1, settings.device)  # fills the caches
    seconds = alternate(imports, settings.repeats, settings.device)
    for package, times in seconds.items():
        add(f"import {package}", times)
    add("difference", [ours - torch_s for ours, torch_s in zip(seconds["serab_byols"], seconds["torch"])])

    with tempfile.TemporaryDirectory() as folder:
        loads: dict[str, Callable[[], Any]] = {}
        for encoder in settings.encoders:
            path = save_checkpoint(settings.model(encoder), Path(folder) / f"{encoder}.safetensors")
            loads[encoder] = partial(load_model, path, device=settings.device)
        alternate(loads, 1, settings.device)
        for encoder, times in alternate(loads, settings.repeats, settings.device).items():
            add(f"load_model {encoder}", times)
    return section


# ---- Memory ----------------------------------------------------------------------------------------


def memory(settings: Settings) -> Section:
    """Long recordings, each in a process of its own."""
    array_min, file_min = settings.size(20, 1), settings.size(60, 2)
    section = Section(
        f"memory: default d=2048 on the CPU, once each{' [QUICK SIZES]' * settings.quick}",
        {
            "what": lambda row: row["what"],
            "peak MB": lambda row: f"{row['peak_bytes'] / 1e6:.0f}",
            "without weights, input, result": lambda row: f"{row['working_bytes'] / 1e6:.0f}",
            "before the call": lambda row: f"{row['before_bytes'] / 1e6:.0f}",
            "audio min / s": lambda row: f"{row['minutes_per_s']:.2f}",
        },
        notes=["resident memory in MB of 10^6 bytes; Python, torch and the other imports are in it"],
    )

    def add(what: str, task: str, duration_s: float, *wav: str) -> None:
        _say(f"memory: {what}")
        script = Path(__file__).with_name("memory_task.py")
        command = [sys.executable, str(script), task, str(duration_s), *wav]
        run = subprocess.run(command, check=False, capture_output=True, text=True)
        if run.returncode != 0:
            section.notes.append(f"{what}: failed with status {run.returncode}. {run.stderr.strip()[-300:]}")
            return
        row: Row = {"what": what, "audio_s": duration_s, **json.loads(run.stdout)}
        held = row["weights_bytes"] + row["input_bytes"] + row["result_bytes"]
        row["working_bytes"] = row["peak_bytes"] - held
        row["minutes_per_s"] = duration_s / 60 / row["seconds"]
        section.rows.append(row)

    add(f"timestamps of {array_min} min as one tensor", "array", array_min * 60)
    with tempfile.TemporaryDirectory() as folder:
        wav = str(Path(folder) / "long.wav")
        _write_noise(wav, file_min * 60, 44100)
        recording = f"{file_min} min WAV, 44.1 kHz stereo"
        for task in ("scenes", "timestamps"):
            add(f"embed_file, {task}, {recording}", task, file_min * 60, wav)
        add(f"serab-byols embed --timestamps, {recording}", "command", file_min * 60, wav)
    return section


def _write_noise(path: str, duration_s: int, sample_rate_hz: int) -> None:
    """A stereo WAV of low noise, 16 bit, written second by second."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", sample_rate_hz, channels=2, subtype="PCM_16") as file:
        for _ in range(duration_s):
            file.write(generator.integers(-300, 300, (sample_rate_hz, 2), dtype=np.int16))


# ---- Folder ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """A folder of noise: so many files, whose formats come in turn and whose lengths are drawn."""

    what: str
    n_files: int
    sample_rate_hz: int = SAMPLE_RATE_HZ
    n_channels: int = 1
    endings: tuple[str, ...] = ("wav",)
    shortest_s: float = 4.0
    longest_s: float = 4.0


def folder(settings: Settings) -> Section:
    """What reading files costs: a folder against the same audio in memory."""
    n_few = settings.size(200, 8)
    kinds = [
        Files("4 s, 16 kHz mono WAV and FLAC", settings.size(1000, 16), endings=("wav", "flac")),
        Files("2 to 6 s, 16 kHz mono WAV", n_few, shortest_s=2.0, longest_s=6.0),
        Files("4 s, 44.1 kHz stereo MP3 and OGG", n_few, 44100, 2, ("mp3", "ogg")),
    ]
    encoders = [name for name in settings.encoders if ENCODERS[name][0] == "default"]
    section = Section(
        settings.title("folder"),
        {
            "encoder": lambda row: row["encoder"],
            "files": lambda row: f"{row['n_files']} {row['files']}",
            "embed_files, clips / s": lambda row: f"{row['files_clips_per_s']:.0f}",
            "in memory, clips / s": lambda row: f"{row['memory_clips_per_s']:.0f}",
            "percent (min-max)": lambda row: (
                f"{row['percent']['median']:.0f} ({row['percent']['min']:.0f}-{row['percent']['max']:.0f})"
            ),
        },
        notes=[
            "in memory: get_scene_embeddings of the decoded and resampled clips; files are in the cache",
            "the default encoder only: the slower the encoder, the less reading matters",
        ],
    )
    for files in kinds:
        with tempfile.TemporaryDirectory() as directory:
            paths = _write_clips(Path(directory), files)
            clips = [_decoded(path) for path in paths]
            for encoder in encoders:
                _say(f"folder: {len(paths)} of {files.what}, {encoder}")
                model = settings.model(encoder).to(settings.dtype)
                measured = _read(paths, clips, model, settings)
                section.rows.append({"encoder": encoder, "files": files.what, **measured})
    return section


def _read(paths: list[Path], clips: list[np.ndarray], model: ByolsModel, settings: Settings) -> Row:
    """Throughput over files and over the same clips in memory."""

    def from_files() -> np.ndarray:
        return np.stack([record.embedding for record in embed_files(paths, model)])

    def from_memory() -> np.ndarray:
        return get_scene_embeddings(clips, model).cpu().numpy()

    difference = relative_difference(torch.from_numpy(from_files()), torch.from_numpy(from_memory()))
    seconds = alternate({"files": from_files, "memory": from_memory}, settings.repeats, settings.device)
    percent = paired_ratios(seconds["memory"], seconds["files"])
    return {
        "n_files": len(paths),
        "seconds": seconds,
        "files_clips_per_s": len(paths) / statistics.median(seconds["files"]),
        "memory_clips_per_s": len(paths) / statistics.median(seconds["memory"]),
        "percent": {name: 100 * ratio for name, ratio in percent.items()},
        "difference": difference,
    }


def _write_clips(directory: Path, files: Files) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for i in range(files.n_files):
        path = directory / f"{i:04}.{files.endings[i % len(files.endings)]}"
        n_samples = round(generator.uniform(files.shortest_s, files.longest_s) * files.sample_rate_hz)
        samples = generator.standard_normal((n_samples, files.n_channels), dtype=np.float32)
        soundfile.write(path, samples * 0.05, files.sample_rate_hz)
        paths.append(path)
    return paths


def _decoded(path: Path) -> np.ndarray:
    with AudioClip(path) as clip:
        return clip.read(SAMPLE_RATE_HZ)


# ---- Command line ----------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[Settings], Section]] = {
    "scenes": scenes,
    "timestamps": timestamps,
    "exported": exported,
    "startup": startup,
    "memory": memory,
    "folder": folder,
}


def _say(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


def _names(choices: dict[str, Any]) -> Callable[[str], list[str]]:
    """A parser of names with commas between."""

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; choose from {', '.join(choices)}")
        return chosen

    return names


def main(arguments: list[str] | None = None) -> None:
    """Run the sections, print their tables, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    encoders, sections = ",".join(ENCODERS), ",".join(SECTIONS)
    parser.add_argument("--encoders", type=_names(ENCODERS), default=encoders, help=f"some of {encoders}")
    parser.add_argument("--only", type=_names(SECTIONS), default=sections, help=f"some of {sections}")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see whether it runs")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the library")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all times go")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    settings = Settings(
        encoders=options.encoders,
        repeats=options.repeats,
        quick=options.quick,
        device=torch.device(options.device),
        dtype=getattr(torch, options.dtype),
    )
    facts = machine(settings.device)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    given = {name: value for name, value in vars(options).items() if name != "json"}
    results: dict[str, Any] = {"machine": facts, "arguments": given, "sections": {}}
    for name in options.only:
        start = time.perf_counter()
        section = SECTIONS[name](settings)
        print(f"\n{section.table()}", flush=True)
        results["sections"][name] = {
            "title": section.title,
            "rows": section.rows,
            "notes": section.notes,
            "wall_s": time.perf_counter() - start,
        }
        if options.json:  # after every section: a later one may fail, and this one took minutes
            options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
