"""Train a classifier end to end, from waveforms through the front end and the encoder, fold by fold.

    python examples/finetune.py clips.csv --model weights.safetensors --task emotions --save tuned.safetensors

The manifest is that of ``serab-byols probe`` (docs/probe.md), and so are the folds; the probe of the frozen
embeddings is printed beside. --save trains on all clips in the end and writes the model for
serab_byols.load_model. docs/finetuning.md says why it is done as it is. Needs the extra ``probe``.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import serab_byols
from serab_byols.atomic_write import check_not_an_input
from serab_byols.checkpoint import read_checkpoint
from serab_byols.corpus.decoding import AudioClip
from serab_byols.errors import InvalidInputError, SerabByolsError
from serab_byols.probe import probe
from serab_byols.probe.manifest import Task, encoded, in_order, read_manifest
from serab_byols.probe.splitting import make_plan


@dataclass(frozen=True)
class Settings:
    """What is the same for every fold; docs/finetuning.md says how it was found."""

    epochs: int = 36
    batch_size: int = 32
    encoder_lr: float = 8e-4
    head_lr: float = 1e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.1
    seed: int = 0


class Classifier(nn.Module):
    """Waveforms (B, n) to scores of labels (B, K): a model, and a linear head on its embedding."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: serab_byols.ByolsModel, n_labels: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.head = nn.Linear(model.embedding_size, n_labels)
        self.register_buffer("mean", torch.zeros(model.embedding_size))
        self.register_buffer("std", torch.ones(model.embedding_size))

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.head((self.model(waveform) - self.mean) / self.std)

    def train(self, mode: bool = True) -> Classifier:
        """As ever, but batch norm and dropout stay as they are in use.

        Some hundred clips give worse statistics than pretraining did, and the head was fitted to whole
        embeddings.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Dropout)):
                module.eval()
        return self


def fit_head(classifier: Classifier, clips: torch.Tensor, labels: torch.Tensor, steps: int = 300) -> None:
    """Train the head alone, on the embeddings as they are: the encoder is then not shaken by a random one."""
    embeddings = serab_byols.get_scene_embeddings(clips, classifier.model)
    classifier.mean.copy_(embeddings.mean(dim=0))
    std = embeddings.std(dim=0)
    # Units that hardly answer yet may do so once the encoder moves: they must not be blown up.
    classifier.std.copy_(std.clamp(min=float(std.mean()) / 2))
    features = (embeddings - classifier.mean) / classifier.std
    nn.init.zeros_(classifier.head.weight)
    nn.init.zeros_(classifier.head.bias)
    optimizer = torch.optim.AdamW(classifier.head.parameters(), lr=3e-3, weight_decay=1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(classifier.head(features), labels).backward()
        optimizer.step()


def augment(clips: torch.Tensor, rate_hz: int, generator: torch.Generator) -> torch.Tensor:
    """Other speeds, moments, levels and backgrounds for clips (B, n); each its own, but one speed a batch."""

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    n_clips, n_samples = clips.shape
    # Playing faster or slower moves the pitch too: another speaker, for the price of an interpolation.
    n_played = round(n_samples / float(uniform(0.85, 1.15, 1)))
    played = F.interpolate(clips[:, None], size=n_played, mode="linear")[:, 0]
    most = rate_hz // 10  # up to 100 ms earlier or later, silence in the gap
    padded = F.pad(played, (most, most + max(0, n_samples - n_played)))
    first = torch.randint(0, 2 * most + 1, (n_clips,), generator=generator).to(clips.device)
    shifted = padded.gather(1, first[:, None] + torch.arange(n_samples, device=clips.device))
    gain = 10 ** (uniform(-6, 6, n_clips, 1) / 20)
    level = shifted.square().mean(dim=1, keepdim=True).sqrt()
    noise_level = 10 ** (-uniform(15, 45, n_clips, 1) / 20)  # 15 to 45 dB below the clip
    noise = torch.randn(n_clips, n_samples, generator=generator)
    return (shifted + level * (noise_level * noise).to(clips.device)) * gain.to(clips.device)


def mix(
    clips: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each clip (B, n) with another one in its background, and so its target (B, K): mixup of waveforms."""
    other = torch.randperm(len(clips), generator=generator).to(clips.device)
    share = 0.4 * torch.rand(len(clips), 1, generator=generator).square().to(clips.device)
    return (1 - share) * clips + share * clips[other], (1 - share) * targets + share * targets[other]


def batches(n_clips: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Indices of all clips in random order."""
    yield from torch.randperm(n_clips, generator=generator).split(size)


def learning_rate(progress: float, warm_up: float = 0.1) -> float:
    """Share of the learning rate at 0 to 1 of the training: up for a tenth of it, then down half a cosine."""
    if progress < warm_up:
        return (progress + 1e-3) / (warm_up + 1e-3)
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warm_up) / (1 - warm_up))


def finetune(
    model: serab_byols.ByolsModel,
    clips: torch.Tensor,
    labels: torch.Tensor,
    n_labels: int,
    settings: Settings = Settings(),
    on_epoch: Callable[[int, float], None] | None = None,
) -> Classifier:
    """A classifier trained end to end; the model given stays as it is.

    Args:
        model: where to start from.
        clips: training clips, float32 (N, n) at the model's rate.
        labels: numbers from 0, int64 (N,).
        n_labels: K.
        settings: of the training.
        on_epoch: called with the epoch's number and its mean loss.
    """
    torch.manual_seed(settings.seed)  # of dropout
    generator = torch.Generator().manual_seed(settings.seed)
    clips, labels = clips.to(model.device), labels.to(model.device)
    classifier = Classifier(model, n_labels).to(model.device)
    fit_head(classifier, clips, labels)
    nn.utils.convert_conv2d_weight_memory_format(classifier, torch.channels_last)  # a fifth faster on a CPU

    optimizer = torch.optim.AdamW(
        [
            {"params": classifier.model.parameters(), "lr": settings.encoder_lr},
            {"params": classifier.head.parameters(), "lr": settings.head_lr},
        ],
        weight_decay=settings.weight_decay,
    )
    n_steps = settings.epochs * math.ceil(len(clips) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step / n_steps))
    targets = F.one_hot(labels, n_labels).float()
    classifier.train()
    for epoch in range(settings.epochs):
        total = 0.0
        for chosen in batches(len(clips), settings.batch_size, generator):
            waveforms = augment(clips[chosen], model.sample_rate, generator)
            waveforms, mixed = mix(waveforms, targets[chosen], generator)
            scores = classifier(waveforms)
            loss = F.cross_entropy(scores, mixed, label_smoothing=settings.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if on_epoch is not None:
            on_epoch(epoch, total / len(clips))
    return classifier.eval()


@torch.no_grad()
def predict(classifier: Classifier, clips: torch.Tensor, batch_size: int = 32) -> torch.Tensor:
    """Numbers of the labels, int64 (N,), of clips (N, n)."""
    device = classifier.mean.device
    return torch.cat([classifier(some.to(device)).argmax(dim=1).cpu() for some in clips.split(batch_size)])


def load_clips(task: Task, rate_hz: int, longest_s: float) -> torch.Tensor:
    """All clips of a task, float32 (N, n), cut to ``longest_s`` and padded with zeros to equal length."""
    waveforms = []
    for segment in task.segments:
        with AudioClip(segment.path, segment.start_s, segment.end_s) as clip:
            waveforms.append(torch.from_numpy(clip.read(rate_hz)[: round(longest_s * rate_hz)]))
    return nn.utils.rnn.pad_sequence(waveforms, batch_first=True)


def check_output(path: Path, manifest: str, model: str, task: Task) -> None:
    """Refuse, before the training, what could not be written after it or would replace what is read."""
    if path.suffix != ".safetensors":
        raise InvalidInputError(f"--save takes a name ending in .safetensors, got {path}")
    if not path.resolve().parent.is_dir():
        raise InvalidInputError(f"--save {path}: that folder does not exist")
    weights = read_checkpoint(model).path
    check_not_an_input([path], [manifest, weights, *(segment.path for segment in task.segments)])


def save(classifier: Classifier, path: Path, task: Task, settings: Settings) -> None:
    """Write the model without the head, with what a person who finds the file would ask."""
    facts = {
        "method": "fine-tuned end to end as a classifier, by examples/finetune.py",
        "task": task.name,
        "labels": in_order(task.labels),
        "clips": len(task.labels),
        "settings": asdict(settings),
        "began_with": classifier.model.source,
    }
    serab_byols.save_checkpoint(classifier.model, path, training_facts=facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("manifest", help="CSV file with the columns path, label and fold")
    parser.add_argument("--model", default="", help="checkpoint (default: the bundled weights)")
    parser.add_argument("--task", help="needed if the manifest has several")
    parser.add_argument("--folds", type=int, help="only the first so many (0: none)")
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument("--encoder-lr", type=float, default=Settings.encoder_lr)
    parser.add_argument(
        "--longest", type=float, default=5.0, metavar="S", help="cut clips to this many seconds"
    )
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="after the folds, train on all clips and write the model here (.safetensors), for load_model",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    tasks = read_manifest(options.manifest, [options.task] if options.task else [])
    if len(tasks) > 1:
        parser.error(f"choose a --task: {', '.join(task.name for task in tasks)}")
    (task,) = tasks
    if options.save is not None:
        try:
            check_output(options.save, options.manifest, options.model, task)
        except SerabByolsError as error:
            parser.error(str(error))
    model = serab_byols.load_model(options.model, device=options.device)
    (frozen,) = probe(options.manifest, [model], tasks=[task.name])
    clips = load_clips(task, model.sample_rate, options.longest)
    labels = torch.from_numpy(encoded(task.labels))
    settings = Settings(epochs=options.epochs, encoder_lr=options.encoder_lr, seed=options.seed)

    def show(epoch: int, loss: float) -> None:
        print(f"\repoch {epoch + 1}/{settings.epochs}, loss {loss:.3f} ", end="", file=sys.stderr, flush=True)

    n_labels = len(in_order(task.labels))
    print(f"{task.name}: accuracy of the frozen probe and of fine-tuning")
    n_right = n_right_frozen = n_tested = 0
    for split, of_frozen in list(zip(make_plan(task).splits, frozen.folds))[: options.folds]:
        train, test = torch.from_numpy(split.train), torch.from_numpy(split.test)
        classifier = finetune(model, clips[train], labels[train], n_labels, settings, show)
        right = int((predict(classifier, clips[test]) == labels[test]).sum())
        print(f"\rfold {split.name}: {of_frozen.accuracy:.3f}  {right / len(test):.3f}", flush=True)
        n_right += right
        n_right_frozen += round(of_frozen.accuracy * len(test))
        n_tested += len(test)
    if n_tested:
        print(f"together: {n_right_frozen / n_tested:.3f}  {n_right / n_tested:.3f}")
    if options.save is not None:
        save(finetune(model, clips, labels, n_labels, settings, show), options.save, task, settings)
        print(f"\r{options.save}: fine-tuned on all {len(clips)} clips")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
