"""The engine Ray, on a cluster of several nodes on this machine: nodes and drivers are killed."""

import gc
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from importlib.util import find_spec
from itertools import count

import pandas
import pytest
import torch
from parity_data import ROOT
from sounds import voice, write

import serab_byols
from serab_byols import cli, embed_dataset
from serab_byols.corpus.dataset import RayEngine, ray_engine
from serab_byols.corpus.dataset.local_storage import LocalStorage
from serab_byols.corpus.dataset.part import NoObserver, PartMaker, PartResult
from serab_byols.corpus.dataset.plan import Part
from serab_byols.corpus.dataset.ray_engine import _Schedule, _Worker, share_out
from serab_byols.corpus.segments import Segment
from serab_byols.corpus.tables import TableFormat
from serab_byols.corpus.vector_format import VectorFormat
from serab_byols.errors import ClusterError, InvalidInputError, MissingExtraError

pytestmark = pytest.mark.usefixtures("one_thread")


def needs_ray(test):
    """For tests on the cluster; older versions of Ray leave files unclosed, which others notice."""
    of_ray = ("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    skipped = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
    return skipped(pytest.mark.filterwarnings(*of_ray)(test))


N_CLIPS = int(os.environ.get("CORPUS_CLIPS", 160))  # a multiple of 20
BAD = N_CLIPS // 10
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a CPU each; this process is connected to it."""
    import ray
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Ray has to say of itself
        started = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        started.add_node(**NODE)
        ray.init(started.address, log_to_driver=False, logging_level="error")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    yield started
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.shutdown()
        started.shutdown()
        gc.collect()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with short clips in a folder; every tenth is damaged."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "clips").mkdir()
    sounds = [voice(seed, 0.3) for seed in range(8)]
    for i in range(N_CLIPS):
        path = write(folder / "clips" / f"{i:03d}.wav", sounds[i % 8] * (0.1 + i / N_CLIPS))
        if i % 10 == 3:
            path.write_bytes(path.read_bytes()[: 20 * (i % 3)])
    return folder


def command(out, checkpoint, part_size, *more):
    options = ["--model", str(checkpoint), "--part-size", str(part_size), *more]
    return ["embed", "clips", "-o", f"{out}/", *options]


@pytest.fixture(scope="module")
def local(corpus, tiny_checkpoint, tmp_path_factory):
    """What the local engine makes of the corpus, by part size."""
    folder, monkeypatch = tmp_path_factory.mktemp("local"), pytest.MonkeyPatch()
    monkeypatch.chdir(corpus)
    for part_size in (1, 4):
        assert cli.main(command(folder / str(part_size), tiny_checkpoint, part_size, "--quiet")) == 1
    monkeypatch.undo()
    return {part_size: folder / str(part_size) for part_size in (1, 4)}


def assert_same(out, expected):
    """Rows and errors, bit for bit and in the same order."""
    pandas.testing.assert_frame_equal(pandas.read_parquet(out), pandas.read_parquet(expected))
    errors = (out / "__run" / "errors.csv").read_text()
    assert errors == (expected / "__run" / "errors.csv").read_text()
    assert len(errors.splitlines()) == 1 + BAD
    for folder in (".", "__run/errors"):
        names = [sorted(p.name for p in (each / folder).iterdir() if p.is_file()) for each in (out, expected)]
        assert names[0] == names[1]


# On a cluster


@needs_ray
def test_the_command_makes_what_the_local_engine_makes(
    cluster, corpus, local, tiny_checkpoint, tmp_path, monkeypatch, capfd
):
    out = tmp_path / "out"
    monkeypatch.chdir(corpus)
    assert cli.main(command(out, tiny_checkpoint, 4, "--engine", "ray")) == 1
    assert_same(out, local[4])
    told = capfd.readouterr()
    assert f"{BAD} of {N_CLIPS} clips could not be embedded" in told.err
    told_of = re.findall(r"^serab-byols: clips/\d+3\.wav: (?:is empty|cannot)", told.err, re.MULTILINE)
    assert len(told_of) == min(BAD, 20)
    assert f"{N_CLIPS - BAD} clips in {N_CLIPS // 4} files, {N_CLIPS - BAD} of them embedded now" in told.out


class _Marking:
    """Makes parts and leaves marks of where; the doomed node never ends its second, others wait for that."""

    def __init__(self, maker, folder, doomed):
        self.maker, self.folder, self.doomed = maker, folder, doomed
        self.storage = maker.storage

    def on(self, device):
        return _Marking(self.maker.on(device), self.folder, self.doomed)

    def __call__(self, part):
        import ray

        node = ray.get_runtime_context().get_node_id()
        for number in count():
            with suppress(FileExistsError), open(self.folder / f"{node}-{number}", "x"):
                break
        while number and (node == self.doomed or not self.is_waiting()):
            time.sleep(0.01)
        return self.maker(part)

    def is_waiting(self):
        return (self.folder / f"{self.doomed}-1").exists()


@needs_ray
@pytest.mark.parametrize("replaced", [False, True])
def test_a_node_that_is_killed_costs_nothing(
    cluster, corpus, local, tiny_checkpoint, tmp_path, monkeypatch, replaced
):
    doomed = cluster.add_node(**NODE)
    (tmp_path / "marks").mkdir()
    others = []

    def engine(parts, maker, observer):
        marking = _Marking(maker, tmp_path / "marks", doomed.node_id)
        for result in RayEngine(n_workers=3)(parts, marking, observer):
            yield result
            if marking.is_waiting() and doomed in cluster.list_all_nodes():
                cluster.remove_node(doomed, allow_graceful=False)
                others.extend([cluster.add_node(**NODE)] if replaced else [])

    monkeypatch.chdir(corpus)
    summary = embed_dataset("clips", tmp_path / "out", tiny_checkpoint, part_size=4, engine=engine)
    assert doomed not in cluster.list_all_nodes()
    for node in others:
        cluster.remove_node(node)
    assert (summary.n_errors, summary.n_embedded) == (BAD, N_CLIPS - BAD)
    assert_same(tmp_path / "out", local[4])


def parts_in(out):
    return len(list(out.glob("part-*.parquet")))


@needs_ray
def test_a_driver_that_is_killed_goes_on_where_it_was(
    cluster, corpus, local, tiny_checkpoint, tmp_path, monkeypatch, capfd
):
    out = tmp_path / "out"
    arguments = command(out, tiny_checkpoint, 1, "--engine", "ray", "--ray-address", cluster.address)
    monkeypatch.chdir(corpus)
    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM)):
        before = parts_in(out)
        driver = subprocess.Popen(
            [sys.executable, "-m", "serab_byols", *arguments], stderr=subprocess.PIPE, text=True
        )
        while parts_in(out) < before + 5:
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.005)
        assert cli.main(command(out, tiny_checkpoint, 1, "--engine", "ray")) == 2
        assert f"another run is writing to {out}" in capfd.readouterr().err
        driver.send_signal(number)
        _, told = driver.communicate(timeout=60)
        assert driver.returncode == status, told
    assert told.splitlines()[-1] == "serab-byols: terminated; unfinished output was removed"
    assert "Traceback" not in told
    before = parts_in(out)
    assert 10 <= before < N_CLIPS
    assert cli.main(command(out, tiny_checkpoint, 1, "--engine", "ray")) == 1
    assert_same(out, local[1])


class _Deadly(_Marking):
    """Ends its process at the second part, and raises at the fourth."""

    def on(self, device):
        return self

    def __call__(self, part):
        if part.number == 1:
            os._exit(1)
        if part.number == 3:
            raise PermissionError("no")
        return PartResult(part.number, 1, 1, 1)


def numbered_parts(n):
    return (Part(i, (Segment(f"{i}.wav", f"{i}.wav"),)) for i in range(n))


@needs_ray
def test_a_part_that_kills_its_workers_is_given_up_and_errors_are_raised(
    cluster, local, monkeypatch, tiny_model
):
    monkeypatch.setattr(ray_engine, "_MOST_LOSSES", 2)
    maker = _Deadly(PartMaker(tiny_model, None, TableFormat(VectorFormat(1)), LocalStorage(local[1])), "", "")
    engine = RayEngine(n_workers=2)
    done = []
    with pytest.raises(ClusterError, match=r"part 1 \(1\.wav .*1 clips\) was lost with its worker 2 times"):
        done.extend(result.number for result in engine(numbered_parts(3), maker, NoObserver()))
    assert sorted(done) == [0, 2]
    with pytest.raises(PermissionError, match=r"^no$"):
        list(engine(list(numbered_parts(4))[3:], maker, NoObserver()))


# Without one


class _FakeRay:
    """Calls whose outcomes are known: a result, an error to raise, or None for never."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self):
        self.most_out = 0

    def put(self, value):
        return value

    def wait(self, calls):
        self.most_out = max(self.most_out, len(calls))
        ready = [call for call in calls if call.outcome is not None]
        return ready[:1], ready[1:]

    def get(self, call):
        if isinstance(call.outcome, Exception):
            raise call.outcome
        return call.outcome if isinstance(call.outcome, PartResult) else None


class _Call:
    def __init__(self, outcome):
        self.outcome = outcome


class _FakeWorker:
    def __init__(self, outcome=lambda part: made(part), started=True):
        self.start = self.make = self
        self.outcome, self.started = outcome, started
        self.n_starts = 0

    def options(self, max_task_retries):
        return self

    def remote(self, sent, argument):
        if isinstance(argument, Part):
            return _Call(self.outcome(argument))
        self.n_starts += 1
        return _Call(self.started)


class _FakeMaker:
    def on(self, device):
        return self


def schedule(*workers, n=5, ray=None, parts=None):
    parts = numbered_parts(n) if parts is None else parts
    return _Schedule(ray or _FakeRay(), workers, _FakeMaker(), parts).results()


def test_parts_wait_for_no_worker_that_has_not_started():
    assert [r.number for r in schedule(_FakeWorker(started=None), _FakeWorker())] == [0, 1, 2, 3, 4]


def test_a_part_that_was_lost_is_made_again_by_a_worker_that_was_started_again():
    losses = iter([True, True, False, True])
    worker = _FakeWorker(lambda part: deadly(1)(part) if part.number == 1 and next(losses) else made(part))
    assert [result.number for result in schedule(worker)] == [0, 1, 2, 3, 4]
    assert worker.n_starts == 3


def test_no_more_of_the_plan_is_read_than_the_workers_have():
    read, ray = [], _FakeRay()
    parts = (read.append(part.number) or part for part in numbered_parts(1000))
    for n_done, _ in enumerate(schedule(_FakeWorker(), _FakeWorker(), ray=ray, parts=parts)):
        assert len(read) <= n_done + 3  # two are being made, and one is next
    assert ray.most_out == 2


def made(part):
    return PartResult(part.number, 1, 1, 1)


def deadly(*numbers):
    error = _FakeRay.exceptions.RayError("first line\n  the end\n")
    return lambda part: error if part.number in numbers else made(part)


def test_parts_that_are_given_up_do_not_keep_others_from_being_made():
    done = []
    with pytest.raises(ClusterError, match=r"^part 2 \(2\.wav .* with its worker 3 times: the end$"):
        done.extend(result.number for result in schedule(_FakeWorker(deadly(2)), _FakeWorker(deadly(2)), n=6))
    assert sorted(done) == [0, 1, 3, 4, 5]
    read = []
    parts = (read.append(part.number) or part for part in numbered_parts(99))
    with pytest.raises(ClusterError, match=r"part 0 .*; part 1 .*; part 2 "):
        list(schedule(_FakeWorker(deadly(*range(99))), parts=parts))
    assert len(read) == 4


def test_workers_that_do_not_start_end_the_run():
    with pytest.raises(ClusterError, match=r"a Ray worker could not start: No module"):
        list(schedule(_FakeWorker(started=_FakeRay.exceptions.RayError("what\nNo module"))))


@pytest.mark.parametrize(
    ("nodes", "asked", "shares"),
    [
        ([{"CPU": 8}], {}, (8, 1)),
        ([{"CPU": 8}], {"n_workers": 3}, (3, 2)),
        ([{"CPU": 4}, {"CPU": 4}, {}], {"n_workers": 1}, (1, 4)),
        ([{"CPU": 3}, {"CPU": 3}, {"CPU": 2}], {"n_workers": 4}, (4, 1)),
        ([{"CPU": 2}], {"n_workers": 5}, (5, 1)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 64}], {"gpus_per_worker": 1}, (2, 8)),
        ([{"CPU": 16, "GPU": 3}], {"gpus_per_worker": 2}, (1, 16)),
        ([{"CPU": 16, "GPU": 1}], {"gpus_per_worker": 0.3}, (3, 5)),
        ([{"CPU": 16}], {"gpus_per_worker": 1, "n_workers": 2}, (2, 1)),
    ],
)
def test_cpus_are_shared_out(nodes, asked, shares):
    assert share_out(nodes, asked.get("n_workers"), asked.get("gpus_per_worker", 0)) == shares


def test_a_cluster_without_room_is_an_error():
    with pytest.raises(ClusterError, match=r"no node of the cluster has a CPU and 1 GPUs"):
        share_out([{"CPU": 2}], None, 1)
    with pytest.raises(ClusterError, match=r"no node of the cluster has a CPU for a worker"):
        share_out([], None, 0)


@pytest.fixture
def sent(monkeypatch, tmp_path, corpus, tiny_checkpoint):
    """A maker as a worker gets it, and the folder of its dataset."""
    model = serab_byols.load_model(tiny_checkpoint)
    clip = corpus / "clips" / "000.wav"
    embed_dataset(clip, tmp_path / "out", model)
    maker = PartMaker(
        model, None, TableFormat(VectorFormat(model.scene_embedding_size)), LocalStorage(tmp_path / "out")
    )
    monkeypatch.setattr(
        ray_engine, "_ray_package", lambda: type("Ray", (), {"get": staticmethod(lambda x: x)})
    )
    monkeypatch.chdir(tmp_path)
    return [maker]


def test_a_worker_reads_relative_paths_from_where_the_run_was_started(sent, corpus, monkeypatch):
    part = Part(0, (Segment("clips/000.wav", "clips/000.wav"), Segment("clips/x.wav", "clips/x.wav")))
    n_threads = torch.get_num_threads()
    there = _Worker(str(corpus), "cpu", n_threads)
    assert there.make(sent, part).failures[0].error == "clips/x.wav: no such file"
    monkeypatch.chdir(corpus.parent)
    elsewhere = _Worker(str(corpus / "not on this node"), "cpu", n_threads)
    elsewhere._folder = str(corpus)
    (failure,) = elsewhere.make(sent, part).failures
    assert (failure.file, failure.error) == ("clips/x.wav", f"{corpus}/clips/x.wav: no such file")


def test_a_worker_that_differs_does_not_start(sent, tmp_path):
    worker = _Worker(str(tmp_path), "cpu", torch.get_num_threads())
    worker.start(sent, serab_byols.__version__)
    with pytest.raises(ClusterError, match=r"serab_byols is 99 here and"):
        worker.start(sent, "99")
    (tmp_path / "out" / "__run" / "run.json").unlink()
    with pytest.raises(ClusterError, match=r"out/__run/run\.json does not exist on .*all nodes share"):
        worker.start(sent, serab_byols.__version__)


# What is refused


@pytest.mark.parametrize("options", [{"n_workers": 0}, {"gpus_per_worker": -1}, {"gpus_per_worker": 1.5}])
def test_impossible_numbers_are_errors(options):
    with pytest.raises(InvalidInputError, match=r"workers must be positive|GPUs per worker must be"):
        RayEngine(**options)


def test_an_unknown_engine_is_an_error(corpus, tmp_path, tiny_model):
    with pytest.raises(InvalidInputError, match="engine must be 'local', 'ray' or an engine, got 'spark'"):
        embed_dataset(corpus, tmp_path / "out", tiny_model, engine="spark")


def test_without_ray_the_error_says_how_to_get_it(corpus, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serab-byols\[ray\]'"):
        embed_dataset(corpus, tmp_path / "out", "no such model", engine="ray")
    arguments = ["embed", str(corpus), "-o", f"{tmp_path}/out/", "--model", "none", "--engine", "ray"]
    assert cli.main(arguments) == 2
    assert "pip install 'serab-byols[ray]'" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_an_error():
    class Unreachable:
        is_initialized = staticmethod(lambda: False)

        @staticmethod
        def init(address, **options):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise ConnectionError("no running Ray instance")

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ClusterError, match="cannot connect to Ray at 'auto': no running"):  # noqa: SIM117
        with ray_engine._connected(Unreachable, "auto"):
            pass
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "x.parquet", "--engine", "ray"], "--engine ray is for a folder of Parquet files"),
        (["-o", "x/", "--workers", "2"], "--workers needs --engine ray"),
        (["-o", "x/", "--ray-address", "auto"], "--ray-address needs --engine ray"),
        (["-o", "x/", "--gpus-per-worker", "1"], "--gpus-per-worker needs --engine ray"),
        (["-o", "x/", "--engine", "ray", "--device", "cpu:0"], "--device is for --engine local"),
    ],
)
def test_options_that_do_not_go_together_are_errors(options, message, corpus, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["embed", str(corpus), *options]) == 2
    assert message in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


# The page about it


@needs_ray
@pytest.mark.filterwarnings("ignore")  # Ray Data warns of itself, otherwise in each version
def test_the_page_about_scale_runs(cluster, tmp_path, monkeypatch, capfd):
    (tmp_path / "clips").mkdir()
    write(tmp_path / "clips" / "a.wav", voice(0))
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").partition("## Several machines: Ray")[2]
    session = {}
    for language, code in re.findall(r"^```(python|sh)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        if language == "sh":
            assert cli.main(shlex.split(code)[1:]) == 0
        else:
            exec(compile(code, "scale.md", "exec"), session)
    assert (session["summary"].n_segments, session["summary"].n_embedded) == (1, 0)
    assert session["vectors"].shape == (2, 512)
    assert "clips/missing.wav (512,) clips/missing.wav: no such file" in capfd.readouterr().out
