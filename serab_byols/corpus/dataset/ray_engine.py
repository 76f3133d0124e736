"""The engine for several machines: Ray actors make the parts.

Ray places the workers and starts a lost one again. Ours is to hand out the parts: one to each worker that is
free, so that the driver holds no more of a plan than that, and again the part of a worker that was lost. It
does no harm if that one had made it.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
import warnings
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from types import ModuleType
from typing import Any

import torch

from serab_byols._version import __version__
from serab_byols.corpus.dataset.description import RUN_FILE, read_run
from serab_byols.corpus.dataset.part import Observer, PartMaker, PartResult
from serab_byols.corpus.dataset.plan import Part
from serab_byols.corpus.remote import is_url
from serab_byols.errors import ClusterError, InvalidInputError, missing_extra

_MOST_LOSSES = 3
"""How often a worker may be lost with the same part, and how many parts may be given up for that."""


@dataclass(frozen=True)
class RayEngine:
    """Makes parts on a Ray cluster; pass it to :func:`embed_dataset` as ``engine``.

    The workers find inputs and outputs by their names, so these must mean the same on every node: a shared
    file system. If Ray is connected already, that connection is used, and left.

    Args:
        address: of the cluster: ``"auto"``, ``"host:port"``, ``"ray://host:10001"``, or ``"local"`` to start
            one in this machine. By default as ``ray.init`` does: ``RAY_ADDRESS``, a cluster that runs on this
            machine, or a new one.
        n_workers: by default as many as there is room for, one a CPU, or one for each ``gpus_per_worker``.
            The CPUs of the cluster are shared out between them. Workers for which there is no room wait
            until there is.
        gpus_per_worker: GPUs of each worker; 0.5 puts two workers on one GPU, 0 (default) embeds on CPUs.

    Raises:
        MissingExtraError: ray is missing.
        InvalidInputError: an impossible number.
        ClusterError: when it runs: there is no cluster or no room for a worker, workers do not start, or a
            part is lost with its worker again and again.
    """

    address: str | None = None
    n_workers: int | None = None
    gpus_per_worker: float = 0

    def __post_init__(self) -> None:
        if self.n_workers is not None and self.n_workers < 1:
            raise InvalidInputError(f"the number of workers must be positive, got {self.n_workers}")
        gpus = self.gpus_per_worker
        if not gpus >= 0 or (gpus > 1 and not float(gpus).is_integer()):
            raise InvalidInputError(f"GPUs per worker must be whole, or a part of one, got {gpus}")
        _ray_package()

    def __call__(
        self, parts: Iterable[Part], maker: PartMaker, observer: Observer
    ) -> Generator[PartResult, None, None]:
        """Make the parts, in no order."""
        parts = iter(parts)
        first = next(parts, None)
        if first is None:
            return
        ray = _ray_package()
        with _connected(ray, self.address) as is_ours, _workers(ray, self, kill=not is_ours) as workers:
            for result in _Schedule(ray, workers, maker, chain([first], parts)).results():
                observer.advance(result.n_segments)
                yield result


def _ray_package() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray", "the engine 'ray'") from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[bool]:
    """Whether the connection is ours: at the end of it Ray stops the workers itself, without a word."""
    if ray.is_initialized():
        yield False
        return
    with _signal_handlers_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Ray has to say of its own options
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (RuntimeError, ValueError, OSError, ImportError) as error:
            where = "Ray" if address is None else f"Ray at {address!r}"
            raise ClusterError(f"cannot connect to {where}: {error}") from error
    try:
        yield True
    finally:
        ray.shutdown()


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """``ray.init`` puts a handler of its own in the place of the program's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None:  # None: one that Python did not set
            signal.signal(signal.SIGTERM, handler)


# Workers


class _Worker:
    """An actor: a process on some node with a model of its own.

    The maker of parts comes with every call, in Ray's object store and in a list, so that it is fetched only
    when it is needed: when the worker starts, or was started again.
    """

    def __init__(self, folder: str, device: str, n_threads: int) -> None:
        torch.set_num_threads(n_threads)
        self._device = device
        self._maker: PartMaker | None = None
        self._folder: str | None = None
        try:
            os.chdir(folder)  # relative paths mean the same, and so do errors
        except OSError:
            self._folder = folder

    def start(self, sent: Sequence[Any], version: str) -> None:
        """Returns when the worker is ready.

        Raises:
            ClusterError: it is not as where the run was started.
        """
        if version != __version__:
            raise ClusterError(f"serab_byols is {version} here and {__version__} on {platform.node()}")
        storage = self._prepared(sent).storage
        if read_run(storage) is None:
            raise ClusterError(
                f"{storage.location}/{RUN_FILE} does not exist on {platform.node()}: "
                "the output must be a folder that all nodes share"
            )

    def make(self, sent: Sequence[Any], part: Part) -> PartResult:
        """Make a part."""
        maker = self._prepared(sent)
        return maker(part if self._folder is None else _in_folder(part, self._folder))

    def _prepared(self, sent: Sequence[Any]) -> PartMaker:
        if self._maker is None:
            maker: PartMaker = _ray_package().get(sent[0])
            self._maker = maker.on(self._device)
        return self._maker


def _in_folder(part: Part, folder: str) -> Part:
    """The part with relative paths as paths below the folder."""
    segments = tuple(
        segment if is_url(segment.path) else replace(segment, path=os.path.join(folder, segment.path))
        for segment in part.segments
    )
    return replace(part, segments=segments)


@contextmanager
def _workers(ray: Any, engine: RayEngine, *, kill: bool) -> Iterator[list[Any]]:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    n_workers, n_cpus = share_out(nodes, engine.n_workers, engine.gpus_per_worker)
    actor = ray.remote(_Worker).options(
        num_cpus=n_cpus,
        num_gpus=engine.gpus_per_worker,
        max_restarts=-1,
        scheduling_strategy="SPREAD",
    )
    device = "cuda" if engine.gpus_per_worker else "cpu"
    workers = [actor.remote(os.getcwd(), device, n_cpus) for _ in range(n_workers)]
    try:
        yield workers
    finally:
        for worker in workers if kill else ():
            with suppress(Exception):
                ray.kill(worker)


def share_out(
    nodes: Sequence[Mapping[str, float]], n_workers: int | None, gpus_per_worker: float
) -> tuple[int, int]:
    """How many workers, and how many CPUs each of them gets.

    Args:
        nodes: ``CPU`` and ``GPU`` of each node.
        n_workers: None for as many as there is room for.
        gpus_per_worker: of each.

    Raises:
        ClusterError: there is room for none, and no number of workers was given to wait for.
    """

    def room(n_cpus: int) -> int:
        return sum(
            min(int(node.get("CPU", 0)) // n_cpus, _times(node.get("GPU", 0), gpus_per_worker))
            for node in nodes
        )

    most = room(1)
    if n_workers is None and most == 0:
        what = f"a CPU and {gpus_per_worker:g} GPUs" if gpus_per_worker else "a CPU"
        raise ClusterError(f"no node of the cluster has {what} for a worker")
    n_workers = most if n_workers is None else n_workers
    n_cpus = 1
    while room(n_cpus + 1) >= n_workers:
        n_cpus += 1
    return n_workers, n_cpus


def _times(gpus: float, gpus_per_worker: float) -> int:
    """How many workers the GPUs of a node are enough for; a worker never has parts of two GPUs."""
    if gpus_per_worker == 0:
        return 1 << 30
    if gpus_per_worker < 1:
        return int(gpus) * int(1 / gpus_per_worker + 1e-9)
    return int(gpus // gpus_per_worker)


# Schedule


class _Schedule:
    """Which worker has which part: one each, and none before it has started.

    The part of a lost worker goes to the next one that is free. Ray's own retries would be used up at once on
    a node that is gone but not yet known to be.
    """

    def __init__(self, ray: Any, workers: Iterable[Any], maker: PartMaker, parts: Iterator[Part]) -> None:
        self._ray = ray
        self._sent = [ray.put(maker.on("cpu"))]
        self._parts = parts
        self._next = next(parts, None)
        self._lost: deque[Part] = deque()
        self._losses: Counter[int] = Counter()
        self._given_up: list[str] = []
        self._idle: list[Any] = []
        self._calls: dict[Any, tuple[Any, Part | None]] = {}
        for worker in workers:
            self._start(worker)

    def results(self) -> Iterator[PartResult]:
        """Results of the parts as they are made."""
        while self._is_unfinished():
            (done,), _ = self._ray.wait(list(self._calls))
            worker, part = self._calls.pop(done)
            try:
                result: PartResult | None = self._ray.get(done)
            except self._ray.exceptions.RayTaskError as error:  # what the worker raised
                raise error.cause or error from None
            except self._ray.exceptions.RayError as error:
                self._lose(part, _reason(error))
                self._start(worker)
            else:
                self._idle.append(worker)
                if result is not None:
                    yield result
            while self._idle and (part := self._part_to_make()):
                self._make(self._idle.pop(), part)
        if self._given_up:
            raise ClusterError("; ".join(self._given_up))

    def _is_unfinished(self) -> bool:
        if len(self._given_up) == _MOST_LOSSES:
            return False
        return bool(self._next or self._lost or any(part for _, part in self._calls.values()))

    def _start(self, worker: Any) -> None:
        """Wait until the worker is there, for the first time or again, however long that takes."""
        call = worker.start.options(max_task_retries=-1).remote(self._sent, __version__)
        self._calls[call] = worker, None

    def _make(self, worker: Any, part: Part) -> None:
        call = worker.make.options(max_task_retries=0).remote(self._sent, part)
        self._calls[call] = worker, part

    def _part_to_make(self) -> Part | None:
        if self._lost:
            return self._lost.popleft()
        part = self._next
        self._next = next(self._parts, None)
        return part

    def _lose(self, part: Part | None, reason: str) -> None:
        if part is None:
            raise ClusterError(f"a Ray worker could not start: {reason}")
        self._losses[part.number] += 1
        if self._losses[part.number] < _MOST_LOSSES:
            self._lost.append(part)
            return
        self._given_up.append(
            f"part {part.number} ({part.segments[0].file} and what follows it, {len(part.wanted)} clips) "
            f"was lost with its worker {_MOST_LOSSES} times: {reason}"
        )


def _reason(error: Exception) -> str:
    """The last line of a message of Ray's: before it come its identifiers and tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
