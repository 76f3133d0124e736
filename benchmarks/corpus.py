"""How fast a corpus is embedded: into one file, into a dataset by the local engine, and by Ray.

``python benchmarks/corpus.py --help``. The corpus is made for the occasion. All candidates get the same
cores, and run in turn (A B C A B C ...); the ratios are of times from the same round. Besides: the share of
each stage, measured alone on one thread, and what is stored of a clip.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from measure import Row, Section, machine, paired_ratios

from serab_byols import ByolsModel, cli, create_model, embed_dataset, save_checkpoint
from serab_byols.corpus.dataset import RayEngine
from serab_byols.corpus.dataset.local_storage import LocalStorage
from serab_byols.corpus.dataset.part import Observer, PartMaker, PartResult
from serab_byols.corpus.dataset.plan import Part, write_plan
from serab_byols.corpus.dataset.run import Engine, make_locally
from serab_byols.corpus.decode_ahead import N_DOWNLOADING_THREADS, DecodedSegment
from serab_byols.corpus.decoding import AudioClip
from serab_byols.corpus.embedding import embed_decoded, embedder_of
from serab_byols.corpus.listing import Inputs
from serab_byols.corpus.record import Record, RecordChunk
from serab_byols.corpus.remote import LocalCopy
from serab_byols.corpus.segments import Segment
from serab_byols.corpus.tables import ParquetWriter, TableFormat, writing
from serab_byols.corpus.vector_format import VectorFormat


@dataclass(frozen=True)
class Corpus:
    """What is embedded, by which weights, and where the results go."""

    clips: Path
    n_clips: int
    clip_s: float
    checkpoint: Path
    model: ByolsModel
    scratch: Path
    part_size: int


@contextmanager
def corpus(options: argparse.Namespace) -> Iterator[Corpus]:
    """Noise of another colour for every clip, in a temporary folder."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        clips = Path(folder) / "clips"
        clips.mkdir()
        noise = np.random.default_rng(0).standard_normal(round((options.clip_s + 1) * options.rate_hz))
        sound = 0.1 * np.convolve(noise, np.hanning(8), "same")
        n_samples = round(options.clip_s * options.rate_hz)
        for i in range(options.clips):
            start = i % options.rate_hz
            soundfile.write(
                clips / f"{i:06d}.{options.format}", sound[start : start + n_samples], options.rate_hz
            )
        model = create_model("default", d=options.size)
        checkpoint = save_checkpoint(model, Path(folder) / "model.safetensors")
        yield Corpus(clips, options.clips, options.clip_s, checkpoint, model, Path(folder), options.part_size)


# Candidates: each embeds the corpus into OUT; seconds of the whole, and of making the parts


class Timed:
    """An engine that notes how long parts were made, from when the first worker had started."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reads_ahead = isinstance(engine, RayEngine)  # reads the first two parts, then waits for workers
        self._began = 0.0
        self.seconds = 0.0

    def __call__(
        self, parts: Iterable[Part], maker: PartMaker, observer: Observer
    ) -> Generator[PartResult, None, None]:
        """Make the parts."""
        yield from self._engine(self._noting(parts), maker, observer)
        self.seconds = time.perf_counter() - self._began

    def _noting(self, parts: Iterable[Part]) -> Iterator[Part]:
        for i, part in enumerate(parts):
            if i <= self._reads_ahead:
                self._began = time.perf_counter()
            yield part


def command(of: Corpus, out: str) -> float:
    """Seconds of the command."""
    options = ["--model", str(of.checkpoint), "--quiet"]
    if out.endswith("/"):
        options += ["--part-size", str(of.part_size)]
    start = time.perf_counter()
    status = cli.main(["embed", str(of.clips), "-o", out, *options])
    if status:
        raise RuntimeError(f"the command ended with status {status}")
    return time.perf_counter() - start


def one_file(of: Corpus, out: Path) -> tuple[float, float]:
    """The command with a table as its output."""
    seconds = command(of, f"{out}.parquet")
    return seconds, seconds


def dataset_command(of: Corpus, out: Path) -> tuple[float, float]:
    """The command with a folder as its output."""
    seconds = command(of, f"{out}/")
    return seconds, seconds


def dataset_by(engine: Engine, of: Corpus, out: Path) -> tuple[float, float]:
    """A dataset from Python."""
    timed = Timed(engine)
    start = time.perf_counter()
    embed_dataset(of.clips, out, of.checkpoint, part_size=of.part_size, engine=timed)
    return time.perf_counter() - start, timed.seconds


def throughput(of: Corpus, options: argparse.Namespace) -> Section:
    """Clips a second of every candidate."""
    candidates: dict[str, Callable[[Corpus, Path], tuple[float, float]]] = {
        "one file": one_file,
        "dataset": dataset_command,
        "dataset, local engine": partial(dataset_by, make_locally),
    }
    for n_workers in options.workers if find_spec("ray") else []:
        engine = RayEngine(n_workers=n_workers)
        candidates[f"dataset, Ray, {n_workers} workers"] = partial(dataset_by, engine)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for i in range(options.repeats):
        for name, candidate in candidates.items():
            out = of.scratch / f"{name}-{i}"
            seconds[name].append(candidate(of, out))
            shutil.rmtree(out, ignore_errors=True)
            Path(f"{out}.parquet").unlink(missing_ok=True)
    section = Section(
        f"{of.n_clips} clips of {of.clip_s:g} s",
        {
            "candidate": lambda row: row["candidate"],
            "clips/s": lambda row: f"{row['clips_per_s']:.1f}",
            "once started": lambda row: f"{row['clips_per_s_once_started']:.1f}",
            "x real time": lambda row: f"{row['clips_per_s_once_started'] * of.clip_s:.0f}",
            "relative to": lambda row: row["relative_to"],
            "speed": lambda row: "{median:.2f} ({min:.2f} to {max:.2f})".format(**row["speed"]),
        },
        notes=[
            "clips/s: of all that is done, loading the model and starting Ray's workers too",
            "once started: from when the first worker has its first part",
            "one thread for each core; Ray shares out the cores between its workers",
        ],
    )
    for name, times in seconds.items():
        other = "dataset, local engine" if "Ray" in name else "one file"
        section.rows.append(_row(of.n_clips, name, times, other, seconds[other]))
    if not find_spec("ray"):
        section.notes.append("no Ray: it is not installed")
    return section


def _row(
    n_clips: int, name: str, times: list[tuple[float, float]], other: str, of_other: list[tuple[float, float]]
) -> Row:
    started = [made_s for _, made_s in times]
    return {
        "candidate": name,
        "seconds": times,
        "clips_per_s": n_clips / statistics.median(whole_s for whole_s, _ in times),
        "clips_per_s_once_started": n_clips / statistics.median(started),
        "relative_to": other,
        "speed": paired_ratios([made_s for _, made_s in of_other], started),
    }


# Stages, each alone


def stages(of: Corpus, options: argparse.Namespace) -> Section:
    """Milliseconds a clip of each stage, on one thread."""
    seconds: dict[str, list[float]] = {}

    def timed(stage: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = function()
        seconds.setdefault(stage, []).append(time.perf_counter() - start)
        return result

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(options.repeats):
        segments = timed("listing", lambda: list(Inputs(of.clips, in_order=False)))
        storage = LocalStorage(of.scratch / "stages")
        plan = partial(write_plan, storage, "plan.arrow", segments, {}, part_size=of.part_size, first_part=0)
        timed("planning", plan)
        if find_spec("aiohttp"):
            with served(of.clips) as url:
                timed("download", partial(_download, of, url))
        decoded = timed("decoding", partial(_decode, of, segments))
        records = timed("encoder", partial(_records, of, decoded))
        timed("writing", partial(_write, of, storage, records))
        shutil.rmtree(storage.location)
    torch.set_num_threads(n_threads)
    medians = {stage: statistics.median(times) for stage, times in seconds.items()}
    whole_s = sum(medians.values())
    return Section(
        "stages, one thread",
        {
            "stage": lambda row: row["stage"],
            "ms/clip": lambda row: f"{row['ms_per_clip']:.3f}",
            "share": lambda row: f"{100 * row['share']:.1f} %",
        },
        [
            {"stage": stage, "ms_per_clip": 1e3 * each / of.n_clips, "share": each / whole_s}
            for stage, each in medians.items()
        ],
        [
            "in a run decoding goes on in two threads beside the encoder",
            "files are in the page cache",
            f"download: {N_DOWNLOADING_THREADS} at a time from an HTTP server on this machine"
            if "download" in medians
            else "no download: aiohttp is not installed",
        ],
    )


def _download(of: Corpus, url: str) -> None:
    with ThreadPoolExecutor(N_DOWNLOADING_THREADS) as pool:
        urls = [f"{url}/{path.name}" for path in of.clips.iterdir()]
        list(pool.map(lambda each: LocalCopy(each).close(), urls))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a folder, from a server process on loopback."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            told = server.stdout.readline()
            url = re.search(r"http://[\d.:]+", told)
            assert url is not None, told
            yield url[0]
        finally:
            server.terminate()


def _decode(of: Corpus, segments: list[Segment]) -> list[DecodedSegment]:
    return [_decoded(of, index, segment) for index, segment in enumerate(segments)]


def _decoded(of: Corpus, index: int, segment: Segment) -> DecodedSegment:
    with AudioClip(segment.path) as clip:
        samples = clip.read(of.model.sample_rate)
        return DecodedSegment(index, segment, clip.start_s, clip.end_s, samples)


def _records(of: Corpus, decoded: list[DecodedSegment]) -> list[Record]:
    embedded = embed_decoded(decoded, embedder_of(of.model, None))
    return [item.record for item in embedded if isinstance(item, RecordChunk)]


def _write(of: Corpus, storage: LocalStorage, records: list[Record]) -> None:
    table_format = TableFormat(VectorFormat(of.model.scene_embedding_size))
    for first in range(0, len(records), of.part_size):
        with storage.writing(f"{first}.parquet") as path, writing(ParquetWriter(path, table_format)) as table:
            for record in records[first : first + of.part_size]:
                table.add(record, {})


# Bytes


def sizes(of: Corpus, _: argparse.Namespace) -> Section:
    """What is stored of a clip."""
    rows = []
    for dtype in ("float32", "float16"):
        for compression in ("none", "snappy", "zstd"):
            out = of.scratch / f"{dtype}-{compression}"
            how = {"embedding_dtype": dtype, "compression": compression, "part_size": of.part_size}
            embed_dataset(of.clips, out, of.checkpoint, **how)  # type: ignore[arg-type]
            files = [path for path in out.rglob("*") if path.is_file()]
            in_rows = sum(path.stat().st_size for path in files if path.suffix == ".parquet")
            in_all = sum(path.stat().st_size for path in files)
            rows.append(
                {
                    "stored": f"{dtype}, {compression}",
                    "row_bytes": in_rows / of.n_clips,
                    "run_bytes": (in_all - in_rows) / of.n_clips,
                }
            )
    return Section(
        f"bytes a clip, {of.model.scene_embedding_size} numbers each",
        {
            "stored": lambda row: row["stored"],
            "rows": lambda row: f"{row['row_bytes']:.0f}",
            "plan": lambda row: f"{row['run_bytes']:.0f}",
        },
        rows,
    )


@contextmanager
def cores(n_cores: int | None, workers: list[int]) -> Iterator[int]:
    """This process and those it starts on some of the cores; a Ray of just these."""
    before, n_threads = os.sched_getaffinity(0), torch.get_num_threads()
    chosen = sorted(before)[:n_cores]
    with ExitStack() as stack:
        os.sched_setaffinity(0, chosen)
        stack.callback(os.sched_setaffinity, 0, before)
        torch.set_num_threads(len(chosen))
        stack.callback(torch.set_num_threads, n_threads)
        if workers and find_spec("ray"):
            import ray

            if not ray.is_initialized():
                ray.init(
                    "local",
                    num_cpus=len(chosen),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
                stack.callback(ray.shutdown)
        yield len(chosen)


SECTIONS = {"throughput": throughput, "stages": stages, "sizes": sizes}


def main(arguments: list[str] | None = None) -> None:
    """Run the sections, print their tables, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--clips", type=int, default=4096, help="how many (default: %(default)s)")
    parser.add_argument("--clip-s", type=float, default=4.0, help="seconds of each (default: %(default)g)")
    parser.add_argument("--rate-hz", type=int, default=16000, help="of the files (default: %(default)s)")
    parser.add_argument("--format", default="wav", help="wav, flac, ogg, mp3 (default: %(default)s)")
    parser.add_argument("--size", type=int, default=512, help="of the AudioNTT's embedding (default: 512)")
    parser.add_argument("--part-size", type=int, default=128, help="clips in a part (default: %(default)s)")
    parser.add_argument("--cores", type=int, help="how many to use (default: all)")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="of Ray (default: 1 2)")
    parser.add_argument("--only", choices=list(SECTIONS), help="one section")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="for the corpus (default: the system's temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all times go")
    options = parser.parse_args(arguments)
    with cores(options.cores, options.workers) as n_cores, corpus(options) as of:
        facts = {**machine(torch.device("cpu")), "cores_used": n_cores}
        print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
        given = {name: str(value) for name, value in vars(options).items()}
        results: dict[str, Any] = {"machine": facts, "arguments": given, "sections": {}}
        for name in [options.only] if options.only else SECTIONS:
            section = SECTIONS[name](of, options)
            print(f"\n{section.table()}", flush=True)
            results["sections"][name] = {"title": section.title, "rows": section.rows, "notes": section.notes}
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
