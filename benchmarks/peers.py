"""This library's weights beside random ones, hand-made statistics, Resemblyzer, torchcrepe and openSMILE.

``python benchmarks/peers.py`` measures accuracy (linear probe, full and 8 clips a label), then speed and
memory on one core, and writes the table of docs/peers.md. Every candidate runs in a process of its own
(``peer_process.py``). The peers' packages are in an environment of their own, made from
``peers-requirements.txt`` in the folder of the run, or one that ``--peers-python`` names. Results are kept in
the folder of the run: accuracy is not measured again while clips and weights are the same, and each step can
be done when it suits, ``--only accuracy`` at any time, ``--only speed`` on a quiet machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
import torch
from generated_page import markdown_table, provenance, write_part
from labelled_tasks import (
    ROOT,
    LabelledTasks,
    add_model_option,
    add_task_option,
    named_weights,
    read_tasks,
    score_cells,
)
from measure import machine
from peer_process import SAMPLE_RATE_HZ

from serab_byols import load_model
from serab_byols.atomic_write import atomic_write
from serab_byols.corpus.decoding import AudioClip
from serab_byols.probe.features import architecture

HERE = Path(__file__).resolve().parent
STEPS = ("accuracy", "speed", "page")
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
Results = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    Attributes:
        name: in the table.
        arguments: of ``peer_process.py``.
        is_peer: whether it runs in the peers' environment.
    """

    name: str
    arguments: tuple[str, ...]
    is_peer: bool = False


PEERS = (
    Contender("Resemblyzer", ("resemblyzer",), True),
    Contender("openSMILE eGeMAPSv02", ("opensmile", "eGeMAPSv02"), True),
    Contender("openSMILE ComParE 2016", ("opensmile", "ComParE_2016"), True),
    Contender("torchcrepe tiny", ("torchcrepe", "tiny"), True),
    Contender("torchcrepe full", ("torchcrepe", "full"), True),
)


def contenders(more_weights: Sequence[str]) -> list[Contender]:
    """All rows: bundled checkpoints and those given, their architectures with random weights, the rest."""
    weights = named_weights(more_weights)
    ours = [Contender(name, ("model", path)) for name, path in weights.items()]
    architectures: dict[str, str] = {}
    for path in weights.values():
        architectures.setdefault(architecture(load_model(path)), path)
    random = [Contender(f"random weights, {a}", ("random", path)) for a, path in architectures.items()]
    return [*ours, *random, Contender("log-mel and MFCC statistics", ("statistics",)), *PEERS]


@dataclass(frozen=True)
class Run:
    """A folder with everything that is kept: clips, the peers' environment, results."""

    folder: Path
    peers_python: Path | None

    @property
    def results_path(self) -> Path:
        """Of the JSON."""
        return self.folder / "results.json"

    def results(self) -> Results:
        """What has been measured so far."""
        if not self.results_path.is_file():
            return {"accuracy": {}, "speed": {}}
        return cast("Results", json.loads(self.results_path.read_text(encoding="utf-8")))

    def save(self, results: Results) -> None:
        """Keep results."""
        with atomic_write(self.results_path) as scratch:
            scratch.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    def clips(self, labelled: LabelledTasks) -> list[Path]:
        """The clips as float WAV, mono, 16 kHz: the same samples for every candidate."""
        folder = self.folder / f"clips-{labelled.digest()[:12]}"
        paths = [folder / f"{i:05}.wav" for i in range(len(labelled.segments))]
        if not (folder / "complete").exists():
            folder.mkdir(parents=True, exist_ok=True)
            for path, segment in zip(paths, labelled.segments):
                with AudioClip(segment.path, segment.start_s, segment.end_s) as clip:
                    soundfile.write(path, clip.read(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, subtype="FLOAT")
            (folder / "complete").touch()
        return paths

    def python(self, contender: Contender) -> Path:
        """The interpreter that a candidate needs; makes the peers' environment when it is first wanted."""
        if not contender.is_peer:
            return Path(sys.executable)
        if self.peers_python is not None:
            return self.peers_python
        environment = self.folder / "environment"
        python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
        if not (environment / "complete").exists():
            _say(f"installing peers-requirements.txt into {environment}")
            venv.create(environment, with_pip=True, clear=True)
            listed = str(HERE / "peers-requirements.txt")
            install = ["-m", "pip", "install", "--quiet", "--no-deps", "-r", listed]
            subprocess.run([str(python), *install], check=True)
            (environment / "complete").touch()
        return python

    def measure(
        self, contender: Contender, clips: Sequence[Path], core: int | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Features (n, D) of clips and facts, by a fresh process with one thread.

        Raises:
            CandidateError: the process failed.
        """
        listed, output = self.folder / "clips.txt", self.folder / "features.npz"
        listed.write_text("".join(f"{path.resolve()}\n" for path in clips), encoding="utf-8")
        command = [self.python(contender), HERE / "peer_process.py", *contender.arguments]
        command += ["--clips", listed, "--output", output, *([] if core is None else ["--core", core])]
        environment = {**os.environ, **ONE_THREAD}
        if contender.is_peer:
            environment.pop("PYTHONPATH", None)  # of our environment, not of theirs
        done = subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise CandidateError((done.stderr.strip().splitlines() or ["no message"])[-1])
        with np.load(output) as archive:
            return archive["features"], json.loads(str(archive["facts"]))


class CandidateError(Exception):
    """A candidate that does not run here; the table says so."""


def measure_accuracy(run: Run, labelled: LabelledTasks, rows: Sequence[Contender], again: bool) -> None:
    """The accuracy step: what has not been measured with these clips and weights."""
    results = run.results()
    results["tasks"] = [task.name for task in labelled.tasks]
    results["accuracy_machine"] = machine(torch.device("cpu"))
    clips = run.clips(labelled)
    for row in rows:
        key = _key(row, labelled)
        if not again and results["accuracy"].get(row.name, {}).get("key") == key:
            continue
        _say(f"accuracy: {row.name}")
        try:
            features, facts = run.measure(row, clips)
        except CandidateError as error:
            results["accuracy"][row.name] = {"error": str(error)}
        else:
            is_bad = ~np.isfinite(features)
            scores = labelled.scores(np.where(is_bad, 0, features))
            entry = {"key": key, "n_not_finite": int(is_bad.sum()), "scores": scores, "facts": facts}
            results["accuracy"][row.name] = entry
        run.save(results)


def _key(row: Contender, labelled: LabelledTasks) -> str:
    """What tells a measurement from another: the clips, the arguments, the bytes of weights."""
    digest = hashlib.sha256(labelled.digest().encode())
    for argument in row.arguments:
        path = Path(argument)
        digest.update(path.read_bytes() if path.is_file() else argument.encode())
    return digest.hexdigest()


def measure_speed(
    run: Run, labelled: LabelledTasks, rows: Sequence[Contender], n_clips: int, n_rounds: int, core: int
) -> None:
    """The speed step: all candidates in turn, round after round, on one core."""
    clips = run.clips(labelled)
    chosen = [clips[i] for i in _spread(labelled, n_clips)]
    facts: dict[str, list[dict[str, Any]]] = {row.name: [] for row in rows}
    failed: set[str] = set()
    before = {**machine(torch.device("cpu")), "threads": 1}
    for i in range(n_rounds):
        for row in rows:
            if row.name in failed:
                continue
            _say(f"speed, round {i + 1} of {n_rounds}: {row.name}")
            try:
                facts[row.name].append(run.measure(row, chosen, core)[1])
            except CandidateError:
                failed.add(row.name)
    results = run.results()
    results["speed"] = {
        name: summarised(measured) for name, measured in facts.items() if name not in failed and measured
    }
    load = [before["load_average"], round(os.getloadavg()[0], 2)]
    audio_s = next((speed["audio_s"] for speed in results["speed"].values()), 0.0)
    results["speed_machine"] = before | {"load_averages": load}
    results["speed_of"] = {"n_clips": len(chosen), "audio_s": audio_s, "n_rounds": n_rounds}
    run.save(results)


def _spread(labelled: LabelledTasks, n_clips: int) -> list[int]:
    """Positions of up to ``n_clips`` clips of each task, spread evenly over it."""
    position = {segment: i for i, segment in enumerate(labelled.segments)}
    chosen: list[int] = []
    for task in labelled.tasks:
        n_all = len(task.segments)
        places = np.linspace(0, n_all, min(n_clips, n_all), endpoint=False).astype(int)
        chosen += [position[task.segments[place]] for place in places]
    return chosen


def _rounded(times: float) -> str:
    """To three digits, without an exponent."""
    return f"{times:.0f}" if times >= 100 else f"{times:.3g}"


def summarised(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Speed and memory over the rounds of one candidate."""
    times_real_time = [facts["audio_s"] / facts["seconds"] for facts in rounds]
    return {
        "audio_s": rounds[0]["audio_s"],
        "times_real_time": statistics.median(times_real_time),
        "slowest": min(times_real_time),
        "fastest": max(times_real_time),
        "peak_bytes": max(facts["peak_bytes"] for facts in rounds),
        "load_s": statistics.median(facts["load_s"] for facts in rounds),
    }


def page_content(results: Results, rows: Sequence[str], command: Sequence[str]) -> str:
    """The generated part of docs/peers.md."""
    tasks = results.get("tasks", [])
    columns = ["features", "D", "parameters", *tasks, "times real time", "peak MB", "installed MB"]
    lines = [_cells(name, results, tasks) for name in rows]
    parts = [f"Accuracy: {provenance(command, results['accuracy_machine'])}"] if tasks else []
    if "speed_machine" in results:
        of, where = results["speed_of"], results["speed_machine"]
        low, high = where["load_averages"]
        parts.append(
            f"Speed and memory: {provenance(command, where)} {of['n_clips']} clips, {of['audio_s']:.0f} s of "
            f"audio, median of {of['n_rounds']} rounds; load average {low} at the start, {high} at the end."
        )
    else:
        parts.append("Speed and memory: not measured yet.")
    notes = [f"- {note}" for note in _notes(results, rows)]
    return "\n\n".join([*parts, markdown_table(columns, lines), "\n".join(notes)])


def _cells(name: str, results: Results, tasks: Sequence[str]) -> list[str]:
    entry, speed = results["accuracy"].get(name, {}), results["speed"].get(name)
    facts = entry.get("facts")
    size = n_parameters = installed = times = peak = ""
    if facts:
        size = str(facts["embedding_size"])
        n_parameters = f"{facts['n_parameters'] / 1e6:.1f} M" if facts["n_parameters"] else "0"
        installed = f"{facts['total'] / 1e6:.0f} ({facts['without_torch'] / 1e6:.0f})"
    if speed:
        median, *ends = (_rounded(speed[name]) for name in ("times_real_time", "slowest", "fastest"))
        times = f"{median} ({'-'.join(ends)})"
        peak = f"{speed['peak_bytes'] / 1e6:.0f}"
    return [name, size, n_parameters, *score_cells(entry.get("scores"), tasks), times, peak, installed]


def _notes(results: Results, rows: Sequence[str]) -> list[str]:
    """What the table has no room for: versions, and what went wrong."""
    entries = {name: results["accuracy"].get(name, {"error": "not measured"}) for name in rows}
    versions = {e["facts"]["package"]: e["facts"]["version"] for e in entries.values() if "facts" in e}
    missing = {e["facts"]["package"]: e["facts"]["missing"] for e in entries.values() if "facts" in e}
    notes = ["Versions: " + ", ".join(f"{package} {number}" for package, number in versions.items()) + "."]
    notes += [
        f"{package} asks for {', '.join(names)} too, which was not installed and not counted."
        for package, names in missing.items()
        if names
    ]
    for name, entry in entries.items():
        if "error" in entry:
            notes.append(f"{name}: no result ({entry['error']}).")
        elif entry["n_not_finite"]:
            notes.append(f"{name}: {entry['n_not_finite']} values that are not finite counted as 0.")
    return notes


def _say(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_task_option(parser)
    add_model_option(parser)
    parser.add_argument(
        "--run", type=Path, default=Path("peers-run"), metavar="FOLDER", help="(default: %(default)s)"
    )
    parser.add_argument("--only", choices=STEPS, help="one step; the page is written in any case")
    parser.add_argument("--peers-python", type=Path, metavar="PATH", help="of an environment with the peers")
    parser.add_argument("--again", action="store_true", help="measure all accuracies again")
    parser.add_argument(
        "--clips", type=int, default=20, metavar="N", help="of each task, for speed (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the speed step (default: %(default)s)")
    parser.add_argument("--core", type=int, default=0, help="for the speed step (default: %(default)s)")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "peers.md", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.clips < 1 or options.rounds < 1:
        parser.error("--clips and --rounds must be at least 1")
    rows = contenders(options.model)
    options.run.mkdir(parents=True, exist_ok=True)
    run = Run(options.run, options.peers_python)
    steps = STEPS if options.only is None else (options.only,)
    if "accuracy" in steps:
        measure_accuracy(run, read_tasks(options.task), rows, options.again)
    if "speed" in steps:
        measure_speed(run, read_tasks(options.task), rows, options.clips, options.rounds, options.core)
    command = ["benchmarks/peers.py", *_public(options)]
    content = page_content(run.results(), [row.name for row in rows], command)
    write_part(options.page, "peers", content)
    print(content)


def _public(options: argparse.Namespace) -> list[str]:
    """The arguments that decide what is in the table, without the folders of this machine."""
    shown = [f"--task={name}={path.name}" for name, path in options.task or ()]
    return shown + [f"--model={Path(weights).name}" for weights in options.model]


if __name__ == "__main__":
    main()
