"""Two processes train as one with the whole batch: on a CPU, through gloo."""

import subprocess
import sys
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sounds import voice, write
from test_pretrain_run import TINY, losses_of, state_of
from torch import nn

from serab_byols.cli import main
from serab_byols.encoders import ENCODERS, create_encoder
from serab_byols.errors import InvalidInputError
from serab_byols.pretrain.byol import PROJECTION_SIZE, Head
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.distributed import GlooSyncBatchNorm, Share, own_share, synchronize_batch_norms
from serab_byols.pretrain.hybrid import ClipFeatures
from serab_byols.pretrain.network import PretrainNetwork
from serab_byols.pretrain.views import Draws

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")

N_ALL = 4
CPU = torch.device("cpu")


def network_of(name):
    is_default = name == "default"
    config = PretrainConfig(
        encoder=name,
        encoder_config={"d": 6} if is_default else {},
        crop_s=0.16,
        batch_size=N_ALL,
        mixup_memory=32,
        dropout=0.0,
        contrastive_weight=0.5,
        hybrid_weight=0.5,
        teacher_weight=float(is_default),
        teacher_time_step_weight=float(is_default),
    )
    features = torch.randn(N_ALL, 5, generator=torch.Generator().manual_seed(3))
    features[:2, 1:] = float("nan")  # mostly unknown for one process's clips, known for the other's
    torch.manual_seed(5)
    with mock.patch.object(Head.__init__, "__defaults__", (PROJECTION_SIZE, 32)):  # narrow, for time
        return PretrainNetwork(config, N_ALL, ClipFeatures(features.numpy()), create_encoder("default", d=6))


def views_of(network, share, step):
    """This process's views of a step; running statistics and mixup memory are updated."""
    waveforms = torch.stack([torch.from_numpy(voice(10 * step + k, seconds=0.16)) for k in range(N_ALL)])
    return network.views(waveforms[share.rows], Draws(1, step, share, CPU))[0]


def two_steps(network, share, given=None):
    """Views of two steps on this process's rows, and gradients and buffers after the second.

    ``given`` are the views of the whole batch that the networks see instead. They are the very ones of
    the other side: float32 rounds those of a smaller batch otherwise, and random weights magnify it.
    """
    own = [views_of(network, share, step) for step in range(2)]
    # In float32 a change of order alone moves some of these gradients by a hundredth.
    for part in (network.encoder, network.byol, network.contrastive, network.hybrid, network.distillation):
        if part is not None:
            part.double()
    if network.distillation is not None:
        network.distillation._teacher.encoder.double()
    for views in own if given is None else [[view[share.rows] for view in views] for views in given]:
        losses, _ = network.losses([view.double() for view in views], torch.arange(N_ALL)[share.rows])
    torch.stack(list(losses.values())).sum().backward()
    result = {name: value.clone() for name, value in network.named_buffers()}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            if share.n_processes > 1:  # what DDP does
                dist.all_reduce(parameter.grad)
            result[f"gradient of {name}"] = parameter.grad / share.n_processes
    return own, result


def train_as_one_of_two(rank, folder, given):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    with pytest.raises(InvalidInputError, match="cannot be divided by 2 processes"):
        own_share(N_ALL + 1)
    for name, views in given.items():
        network = synchronize_batch_norms(network_of(name), CPU)
        own, result = two_steps(network, own_share(N_ALL), views)
        if rank:  # the gradients are the same in both, and large
            result = {key: value for key, value in result.items() if not key.startswith("gradient")}
        torch.save((own, result), f"{folder}/{name}.{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone(one_thread):
    """What one process with the whole batch gets, for every encoder."""
    return {name: two_steps(network_of(name), Share(0, 1, N_ALL)) for name in ENCODERS}


@pytest.fixture(scope="module")
def two_processes(alone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    given = {name: views for name, (views, _) in alone.items()}
    mp.spawn(train_as_one_of_two, (str(folder), given), nprocs=2)
    return folder


@pytest.mark.parametrize("name", list(ENCODERS))
def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(name, alone, two_processes):
    """And its views, running statistics, memory, and batch normalisations, after two steps."""
    given, expected = alone[name]
    results = [torch.load(two_processes / f"{name}.{rank}", weights_only=True) for rank in range(2)]
    both = [[torch.cat(parts) for parts in zip(*steps)] for steps in zip(*(own for own, _ in results))]
    torch.testing.assert_close(both, given, atol=1e-4, rtol=1e-4)
    assert results[0][1].keys() == expected.keys()
    largest = max(float(v.abs().max()) for k, v in expected.items() if k.startswith("gradient"))
    for _, result in results:
        for key, value in result.items():
            scale = largest if key.startswith("gradient") else float(expected[key].nan_to_num().abs().max())
            rtol, atol = (1e-4, 1e-4) if key.startswith("views.") else (1e-6, 1e-9 * scale)
            torch.testing.assert_close(
                value, expected[key], atol=atol, rtol=rtol, equal_nan=True, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize("name", list(ENCODERS))
def test_what_is_trained_gets_a_gradient_and_the_target_none(name, alone):
    """Processes wait for the gradient of every parameter that could have one."""
    _, result = alone[name]
    trained = [key for key, p in network_of(name).named_parameters() if p.requires_grad]
    assert not any("target" in key for key in trained)
    assert {f"gradient of {key}" for key in trained} == {key for key in result if key.startswith("gradient")}


@pytest.mark.parametrize(("device", "kind"), [("cuda", nn.SyncBatchNorm), ("cpu", GlooSyncBatchNorm)])
def test_gpus_synchronise_by_torch_and_keep_parameters_and_buffers(device, kind):
    network = network_of("default")
    before = network.state_dict(keep_vars=True)
    synchronize_batch_norms(network, torch.device(device))
    kinds = {type(m) for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {kind}
    after = network.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[key] is value for key, value in before.items() if isinstance(value, torch.Tensor))


TELLS_OF_FORKS = """
import os, sys
os.register_at_fork(before=lambda: print("forked", file=sys.stderr))
from serab_byols.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""


def test_a_training_of_two_processes_is_that_of_one(tmp_path):
    """Through Lightning: losses and weights agree, it resumes, and no process is forked.

    A fork of a process in which torch has used threads hangs.
    """
    for seed in range(4):
        write(tmp_path / f"{seed}.wav", voice(seed, seconds=1))
    command = ["pretrain", str(tmp_path), "--steps", "4", "--size", "4", *TINY, "--dropout", "0"]
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert main([*command, "-o", str(one)]) == 0
    script = tmp_path / "train.py"
    script.write_text(TELLS_OF_FORKS)
    for program, options in ((["-m", "serab_byols"], ["--minutes", "0"]), ([str(script)], [])):
        done = subprocess.run(
            [sys.executable, *program, *command, "-o", str(two), "--devices", "2", *options],
            check=True,
            capture_output=True,
            timeout=300,
            text=True,
        )
        assert done.stdout.count(two.name) == 1  # one of the processes reports
        assert all(line.startswith("serab-byols: ") for line in done.stderr.splitlines())
        assert done.stderr.count("4 clips") == 1
    # Random weights magnify the rounding of sums that are taken in another order.
    assert losses_of(two)[:2] == pytest.approx(losses_of(one)[:2], rel=1e-3)
    assert losses_of(two) == pytest.approx(losses_of(one), rel=5e-2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        start = create_encoder("default", d=4).state_dict()
    assert not torch.equal(state_of(two)["fc.0.weight"], start["fc.0.weight"])
    largest = max(float(value.abs().max()) for value in state_of(one).values())
    for key, value in state_of(one).items():
        torch.testing.assert_close(state_of(two)[key], value, atol=2e-2 * largest, rtol=0, msg=key)
