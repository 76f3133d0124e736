"""A training step asks nothing back from the device: losses are read every few steps, with the same log."""

import csv
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import NARROW_CONFIGS
from sounds import voice, write
from torch.utils._python_dispatch import TorchDispatchMode

from serab_byols.corpus.log_mel_statistics import log_mel_statistics
from serab_byols.encoders import ENCODERS, create_encoder
from serab_byols.errors import DivergedError
from serab_byols.pretrain import Machine, PretrainConfig, device_transfers, loop, pretrain, views
from serab_byols.pretrain.byol import PROJECTION_SIZE, Head
from serab_byols.pretrain.crops import CropReader, Crops, find_clips
from serab_byols.pretrain.device_transfers import UnreadNumbers, steps_between_reads, to_device
from serab_byols.pretrain.hybrid import ClipFeatures, CropStatistics
from serab_byols.pretrain.network import PretrainNetwork
from serab_byols.pretrain.outputs import Outputs
from serab_byols.pretrain.progress import SILENT

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = PretrainConfig(encoder_config={"d": 4}, crop_s=0.3, batch_size=4, mixup_memory=8, steps=10)
EVERYTHING = {"silence_probability": 0.5, "fader_gain": 0.3, "equalizer_gain": 0.1, "post_norm": True}


@pytest.fixture(autouse=True)
def narrow_heads(monkeypatch):
    monkeypatch.setattr(Head.__init__, "__defaults__", (PROJECTION_SIZE, 32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio")
    for seed in range(5):
        write(path / f"{seed}.wav", voice(seed, seconds=0.4 + 0.4 * seed))
    return path


def quiet(*_):
    pass


def rows_of(weights):
    """The log without its speeds."""
    with weights.with_suffix(".log.csv").open(newline="") as file:
        return [{key: row[key] for key in row if key != "crops_per_s"} for row in csv.DictReader(file)]


@pytest.fixture
def reads(monkeypatch):
    """Numbers of steps that were read together; ``every`` is how many are."""
    log, original = SimpleNamespace(steps=[], every=4), UnreadNumbers.read

    def read(self, flag):
        log.steps.append(len(self))
        return original(self, flag)

    monkeypatch.setattr(UnreadNumbers, "read", read)
    monkeypatch.setattr(loop, "steps_between_reads", lambda device: log.every)
    return log


# --- nothing is read ------------------------------------------------------------------------------


class MetaFabric:
    """What the loop uses of Lightning Fabric, on a device whose tensors have no values to read."""

    is_global_zero, device = True, torch.device("meta")
    autocast = staticmethod(nullcontext)
    strategy = SimpleNamespace(setup_module=lambda module: module)

    def to_device(self, module):
        return module.to("meta")

    def setup_optimizers(self, optimizer):
        return optimizer

    def backward(self, loss):
        loss.backward()


class Copies(TorchDispatchMode):
    """Notes copies of host memory to the device, other than those of ``to_device``."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.noted, self.allowed = [], False
        for module in (loop, views):
            monkeypatch.setattr(module, "to_device", self.to_device)

    def to_device(self, x, device):
        self.allowed = True
        moved = to_device(x, device)
        self.allowed = False
        return moved

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        is_copy = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        source = args[1] if func is torch.ops.aten.copy_.default else args[0] if args else None
        if is_copy and result.is_meta and not source.is_meta and not self.allowed:
            self.noted.append(func)
        return result


def train_on_meta(folder, tmp_path, monkeypatch, config, features=None, teacher=None):
    """Six steps; returns how many steps were read together when the loop asked for it."""
    asked, copies = [], Copies(monkeypatch)

    def read(self, flag):
        if not asked:
            copies.noted.clear()  # the teacher, which moves in the first step
        asked.append(len(self))
        rows = [(step, dict.fromkeys(names, 1.0)) for step, names in self._steps]
        assert all(numbers.is_meta for numbers in self._numbers)
        self._steps, self._numbers = [], []
        return rows, False

    monkeypatch.setattr(UnreadNumbers, "read", read)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # knows no "meta"
    monkeypatch.setattr(loop, "_check_weights", lambda network, step: asked.append("weights"))
    monkeypatch.setattr(loop, "save_training", quiet)
    MetaFabric.strategy.precision = SimpleNamespace(state_dict=dict)
    network = PretrainNetwork(config, 20, features, teacher)
    reader = CropReader(Crops(find_clips([str(folder)], print), config.n_samples, 4, 0), 10**8, print)
    network.to("meta")
    log_mel_statistics(torch.empty(1, 64, 3, device="meta"))  # copies its cosines, once
    with copies:
        loop.train(
            MetaFabric(), network, reader, Machine(), Outputs(tmp_path / "a.safetensors"), {}, None, SILENT
        )
    assert copies.noted == []
    return asked


@pytest.mark.parametrize("name", list(ENCODERS))
def test_a_step_reads_nothing(folder, tmp_path, monkeypatch, narrow, name):
    """With every loss and every augmentation; statistics and memory are learnt in all steps."""
    size = NARROW_CONFIGS.get(name, {})
    weights = {"hybrid_weight": 1.0, "teacher_weight": 1.0, "teacher_time_step_weight": 1.0}
    config = replace(SMALL, encoder=name, encoder_config=size, steps=6, **weights, **EVERYTHING)
    teacher = create_encoder("default", d=8)
    asked = train_on_meta(folder, tmp_path, monkeypatch, config, CropStatistics(), teacher)
    assert asked == [1, 5, "weights"]
    assert len(rows_of(tmp_path / "a.safetensors")) == 6


def test_a_step_with_features_of_a_table_reads_nothing(folder, tmp_path, monkeypatch):
    features = ClipFeatures(np.random.default_rng(0).normal(size=(5, 3)))
    config = replace(SMALL, hybrid_weight=1.0, steps=6, statistics=(-6.0, 5.0))
    assert train_on_meta(folder, tmp_path, monkeypatch, config, features) == [1, 5, "weights"]


def test_a_read_would_be_seen(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "relative_spread", lambda embedding: torch.tensor(float(embedding.mean())))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        train_on_meta(folder, tmp_path, monkeypatch, replace(SMALL, steps=6))


def test_a_copy_would_be_seen(folder, tmp_path, monkeypatch):
    original = loop.relative_spread
    monkeypatch.setattr(loop, "relative_spread", lambda x: original(x) * torch.ones(1).to("meta")[0])
    with pytest.raises(AssertionError, match=r"aten\._to_copy"):
        train_on_meta(folder, tmp_path, monkeypatch, replace(SMALL, steps=6))


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cuda:1", True), ("mps", False)])
def test_a_gpu_copies_from_pinned_memory_in_its_own_time(device, pinned):
    calls = []

    class Batch:
        def pin_memory(self):
            calls.append("pin_memory")
            return self

        def to(self, place, non_blocking=False):
            calls.append((place.type, non_blocking))
            return self

    to_device(Batch(), torch.device(device))
    assert calls == (["pin_memory", ("cuda", True)] if pinned else [("mps", False)])


def test_on_a_cpu_every_step_is_read_and_on_others_some_together():
    assert steps_between_reads(torch.device("cpu")) == 1
    assert steps_between_reads(torch.device("cuda", 1)) == device_transfers.READ_EVERY_STEPS > 1


# --- and nothing is lost --------------------------------------------------------------------------


def test_the_log_and_the_weights_are_the_same(folder, tmp_path, reads):
    together, singly = tmp_path / "together.safetensors", tmp_path / "singly.safetensors"
    pretrain([str(folder)], together, SMALL, on_message=quiet)
    assert reads.steps == [1, 3, 4, 2]
    reads.steps, reads.every = [], 1
    pretrain([str(folder)], singly, SMALL, on_message=quiet)
    assert reads.steps == [1] * 10
    assert rows_of(together) == rows_of(singly)
    assert len(rows_of(together)) == 10
    one, other = (
        torch.load(path.with_suffix(".training.ckpt"), weights_only=True) for path in (together, singly)
    )
    torch.testing.assert_close(one["network"], other["network"], rtol=0, atol=0)


def test_a_checkpoint_comes_after_the_rows_before_it(folder, tmp_path, reads, monkeypatch):
    n_rows, original = [], loop.save_training

    def save(path, state):
        n_rows.append((state["step"], len(rows_of(tmp_path / "a.safetensors"))))
        original(path, state)

    monkeypatch.setattr(loop, "save_training", save)
    machine = Machine(checkpoint_steps=3)
    pretrain([str(folder)], tmp_path / "a.safetensors", SMALL, machine=machine, on_message=quiet)
    assert n_rows == [(3, 3), (6, 6), (9, 9), (10, 10)]
    assert reads.steps == [1, 2, 1, 2, 2, 1, 1]


def test_the_clock_stops_one_process_at_once(folder, tmp_path, reads):
    reads.every = 100
    for n_steps in (1, 2):
        machine = Machine(max_minutes=0)
        result = pretrain([str(folder)], tmp_path / "a.safetensors", SMALL, machine=machine, on_message=quiet)
        assert result.step == len(rows_of(tmp_path / "a.safetensors")) == n_steps


@pytest.mark.parametrize("checkpoint_steps", [500, 2])
def test_divergence_is_found_at_its_step_and_before_a_checkpoint(folder, tmp_path, reads, checkpoint_steps):
    config, logs, messages = replace(SMALL, lr=1e30, steps=30), [], []
    for every in (1, 16):
        reads.every, weights = every, tmp_path / f"{every}.safetensors"
        machine = Machine(checkpoint_steps=checkpoint_steps)
        with pytest.raises(DivergedError, match="lower learning rate") as raised:
            pretrain([str(folder)], weights, config, machine=machine, on_message=quiet)
        messages.append(str(raised.value))
        logs.append(rows_of(weights))
        saved = weights.with_suffix(".training.ckpt")
        if saved.exists():
            state = torch.load(saved, weights_only=True)["network"]
            assert all(value.isfinite().all() for value in state.values() if isinstance(value, torch.Tensor))
        assert not weights.exists()
    assert messages[0] == messages[1]
    assert logs[0] == logs[1]


def test_collapse_is_reported_with_its_step(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(loop, "_COLLAPSED_STEPS", 6)
    write(tmp_path / "a.wav", np.zeros(8000))
    config = replace(SMALL, mixup_ratio=0, crop_scale=(1, 1), crop_virtual_time=1, dropout=0)
    messages = []
    pretrain([str(tmp_path / "a.wav")], tmp_path / "a.safetensors", config, on_message=messages.append)
    assert sum("at step 6 the embeddings have collapsed" in message for message in messages) == 1


def test_unread_numbers_come_back_by_step_and_name():
    unread = UnreadNumbers()
    for step in (7, 8):
        unread.add(step, {"loss": torch.tensor(step + 0.5, requires_grad=True), "spread": torch.tensor(0.25)})
    assert len(unread) == 2
    expected = [(7, {"loss": 7.5, "spread": 0.25}), (8, {"loss": 8.5, "spread": 0.25})]
    assert unread.read(flag=True) == (expected, True)
    unread.add(9, {"loss": torch.tensor(1.0)})
    assert unread.read(flag=False) == ([(9, {"loss": 1.0})], False)
