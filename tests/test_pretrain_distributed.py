"""Two processes train as one with all of the batch: on a CPU, through gloo."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sounds import voice, write
from test_pretrain_run import losses_of, same, state_of

from serab_byols.corpus.segments import Segment
from serab_byols.encoders import ENCODERS, create_encoder
from serab_byols.pretrain.byol import Byol
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.corpus import Clip, CropReader, Crops
from serab_byols.pretrain.distributed import Share
from serab_byols.pretrain.hybrid import FeatureTable
from serab_byols.pretrain.module import PretrainModule
from serab_byols.pretrain.views import Draws

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")

N_ALL = 8


def module_of(name: str) -> PretrainModule:
    config = PretrainConfig(
        encoder=name,
        encoder_config={"d": 6} if name == "default" else {},
        crop_s=0.3,
        batch_size=N_ALL,
        mixup_memory=32,
        dropout=0.0,
        hybrid_weight=0.5,
        teacher_weight=1.0 if name == "default" else 0.0,
        teacher_frame_weight=1.0 if name == "default" else 0.0,
    )
    clips = [Clip(Segment(str(k), Path(str(k))), 0.0, 1.0) for k in range(N_ALL)]
    reader = CropReader(Crops(clips, config.n_samples, N_ALL, 0), 0, print)
    features = torch.randn(N_ALL, 5, generator=torch.Generator().manual_seed(3))
    features[:3] = float("nan")  # unknown for most of one process's clips, known for the other's
    table = FeatureTable(features.numpy())
    torch.manual_seed(5)
    return PretrainModule(config, reader, table, create_encoder("default", d=6))


def views_of(module: PretrainModule, share: Share, step: int) -> list[torch.Tensor]:
    """What this process's encoders see at a step; statistics and memory learn in passing."""
    waveforms = torch.stack([torch.from_numpy(voice(10 * step + k, seconds=0.3)) for k in range(N_ALL)])
    return module.views(waveforms[share.rows], Draws(1, step, share, waveforms.device))


def step_of(module: PretrainModule, views: list[torch.Tensor], share: Share) -> dict[str, torch.Tensor]:
    """Gradients and buffers after a step on this process's rows."""
    # In float32 a change of order alone moves some of these gradients by a hundredth.
    for part in (module.encoder, module.byol, module.hybrid):
        part.double()
    if module.distillation:
        module.distillation.double()
        module.distillation._teacher.encoder.double()
    losses, _ = module.losses([view.double() for view in views], torch.arange(N_ALL)[share.rows])
    module.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    gradients = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            gradient = parameter.grad.clone()
            if share.n_processes > 1:  # what DDP does
                dist.all_reduce(gradient)
            gradients[f"gradient of {name}"] = gradient / share.n_processes
    return {**gradients, **{name: value.clone() for name, value in module.named_buffers()}}


def _process(rank: int, address: str, name: str, given: list[list[torch.Tensor]], path: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    module, share = module_of(name), Share(rank, 2, N_ALL // 2)
    own = []
    for step, views in enumerate(given):
        own.append(views_of(module, share, step))
        # The very views of the other side: float32 rounds those of a smaller batch otherwise, and
        # random weights magnify it. How close they come is compared by itself.
        result = step_of(module, [view[share.rows] for view in views], share)
    torch.save((own, result), f"{path}.{rank}")
    dist.destroy_process_group()


def _named(key: str):
    return lambda message: f"{key}: {message}"


@pytest.mark.parametrize("name", list(ENCODERS))
def test_two_processes_have_the_gradients_of_one_with_all_of_the_batch(name, tmp_path, one_thread):
    """And its views, running statistics, memory, and batch normalisations, after two steps."""
    module, share = module_of(name), Share(0, 1, N_ALL)
    given = []
    for step in range(2):
        given.append(views_of(module, share, step))
        expected = step_of(module, given[step], share)
    mp.spawn(_process, (f"file://{tmp_path}/meet", name, given, str(tmp_path / "result")), nprocs=2)
    results = [torch.load(tmp_path / f"result.{rank}", weights_only=True) for rank in range(2)]
    both = [[torch.cat(parts) for parts in zip(*steps)] for steps in zip(*(own for own, _ in results))]
    torch.testing.assert_close(both, given, atol=1e-4, rtol=1e-4)
    largest = max(float(v.abs().max()) for k, v in expected.items() if k.startswith("gradient"))
    for _, result in results:
        assert result.keys() == expected.keys()
        for key, value in expected.items():
            scale = largest if key.startswith("gradient") else float(value.nan_to_num().abs().max())
            rtol, atol = (1e-4, 1e-4) if key.startswith("views.") else (1e-6, 1e-9 * scale)
            torch.testing.assert_close(
                result[key], value, atol=atol, rtol=rtol, equal_nan=True, msg=_named(key)
            )


@pytest.mark.parametrize("name", list(ENCODERS))
def test_what_is_learnt_gets_a_gradient_and_the_target_none(name, one_thread):
    """Processes wait for the gradient of every parameter that could have one."""
    module, share = module_of(name), Share(0, 1, N_ALL)
    step_of(module, views_of(module, share, 0), share)
    without = [key for key, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert not any(p.requires_grad for key, p in module.named_parameters() if "target" in key)


def test_without_synchronisation_the_gradients_would_differ(one_thread):
    """What the test above would see if every process normalised its own half."""
    torch.manual_seed(0)
    encoder = create_encoder("default", d=6).train()
    encoder.fc[2].p = 0.0
    byol, views = Byol(encoder, 6), [torch.randn(N_ALL, 1, 64, 31) for _ in range(2)]

    def gradient(parts):
        encoder.zero_grad()
        for part in parts:
            (
                byol.loss([encoder(view[part]) for view in views], [view[part] for view in views])
                / len(parts)
            ).backward()
        return encoder.features[0].weight.grad.clone()

    whole, halves = gradient([slice(None)]), gradient([slice(0, 4), slice(4, 8)])
    assert (whole - halves).abs().max() > 0.05 * whole.abs().max()


def test_a_training_of_two_processes_is_that_of_one(tmp_path):
    """From the shell, through Lightning: losses and weights agree, and it resumes."""
    for seed in range(4):
        write(tmp_path / f"{seed}.wav", voice(seed, seconds=1))
    command = [sys.executable, "-m", "serab_byols", "pretrain", str(tmp_path), "--steps", "4", "--size", "4"]
    command += [
        "--crop-s",
        "0.3",
        "--batch-size",
        "4",
        "--dropout",
        "0",
        "--mixup-memory",
        "8",
        "--threads",
        "1",
    ]

    def run(name, *options):
        weights = tmp_path / f"{name}.safetensors"
        done = subprocess.run(
            [*command, "-o", str(weights), *options], check=True, capture_output=True, timeout=300, text=True
        )
        assert done.stdout.count(weights.name) == 1  # one of the processes speaks
        return weights

    one = run("one")
    run("two", "--devices", "2", "--minutes", "0")
    two = run("two", "--devices", "2")
    # Random weights magnify the rounding of sums that are taken in another order.
    assert losses_of(two)[:2] == pytest.approx(losses_of(one)[:2], rel=1e-3)
    assert losses_of(two) == pytest.approx(losses_of(one), rel=5e-2)
    assert len(losses_of(two)) == 4
    assert not same(state_of(two), serab_byols_start())
    largest = max(float(value.abs().max()) for value in state_of(one).values())
    for key, value in state_of(one).items():
        torch.testing.assert_close(state_of(two)[key], value, atol=2e-2 * largest, rtol=0, msg=key)


def serab_byols_start():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        return create_encoder("default", d=4).state_dict()
