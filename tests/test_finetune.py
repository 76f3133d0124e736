"""The example of fine-tuning, on clips that it can learn in seconds."""

import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from parity_data import ROOT
from sounds import tone, voice, write

import serab_byols

pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = ROOT / "examples" / "finetune.py"
RATE_HZ = 16000


@pytest.fixture(scope="module")
def example():
    """What the script defines."""
    return SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="finetune_example"))


def clips_and_labels(n_clips=24):
    """Tones and buzzes, float32 (N, n), and which is which."""
    waveforms = [tone(300 + 30 * i, 0.3, RATE_HZ) if i % 2 else voice(i, 0.3) for i in range(n_clips)]
    return torch.from_numpy(np.stack(waveforms)), torch.arange(n_clips) % 2


def test_the_encoder_learns_and_the_model_given_stays(example, tiny_model):
    clips, labels = clips_and_labels()
    held_out = torch.arange(len(clips)) % 3 == 0
    before = {key: value.clone() for key, value in tiny_model.state_dict().items()}
    losses = []
    settings = example.Settings(epochs=6, batch_size=8, encoder_lr=5e-4)
    classifier = example.finetune(
        tiny_model, clips[~held_out], labels[~held_out], 2, settings, lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < 0.75 * losses[0]
    assert (example.predict(classifier, clips[held_out]) == labels[held_out]).float().mean() >= 0.75
    assert not tiny_model.training
    after = classifier.model.state_dict()
    for key, value in tiny_model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
        is_statistic = "running" in key or "num_batches" in key
        assert torch.equal(after[key], value) == is_statistic, key


def test_the_head_starts_as_a_probe(example, tiny_model):
    clips, labels = clips_and_labels()
    classifier = example.Classifier(tiny_model, 2)
    example.fit_head(classifier, clips, labels)
    assert (example.predict(classifier.eval(), clips) == labels).float().mean() > 0.9
    torch.testing.assert_close(classifier.model.state_dict(), tiny_model.state_dict())


def test_the_same_seed_trains_the_same(example, tiny_model):
    clips, labels = clips_and_labels(8)
    settings = [example.Settings(epochs=1, batch_size=4, seed=seed) for seed in (1, 1, 2)]
    heads = [example.finetune(tiny_model, clips, labels, 2, setting).head.weight for setting in settings]
    torch.testing.assert_close(heads[0], heads[1], rtol=0, atol=0)
    assert not torch.equal(heads[0], heads[2])


def test_augmented_clips_are_other_clips_of_the_same_length(example):
    clips, _ = clips_and_labels(6)
    changed = example.augment(clips, RATE_HZ, torch.Generator().manual_seed(0))
    assert changed.shape == clips.shape
    assert changed.isfinite().all()
    ratio_db = 20 * torch.log10(changed.square().mean(dim=1).sqrt() / clips.square().mean(dim=1).sqrt())
    assert (ratio_db.abs() < 10).all()
    assert ratio_db.std() > 1  # each at a level of its own
    assert not torch.allclose(changed, clips, atol=0.1)


def test_mixing_keeps_the_clip_in_front_and_the_targets_a_distribution(example):
    clips, labels = clips_and_labels(8)
    targets = torch.nn.functional.one_hot(labels, 2).float()
    mixed, shares = example.mix(clips, targets, torch.Generator().manual_seed(0))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(8))
    assert (shares.argmax(dim=1) == labels).all()
    assert (shares.max(dim=1).values < 1).any()
    correlation = torch.nn.functional.cosine_similarity(mixed, clips)
    assert (correlation > 0.6).all()


@pytest.fixture
def run(example, tiny_checkpoint, tmp_path, monkeypatch):
    """Runs the script on twelve short clips, as from a shell."""
    rows = ["path,label,fold"]
    clips, labels = clips_and_labels(12)
    for i, (clip, label) in enumerate(zip(clips, labels)):
        write(tmp_path / f"{i}.wav", clip.numpy()[: RATE_HZ // 4 + 100 * i])
        rows.append(f"{i}.wav,{'ab'[label]},{i // 6}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))

    def run(*options):
        arguments = [SCRIPT, tmp_path / "clips.csv", "--model", tiny_checkpoint, "--epochs", "1", *options]
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
        return example.main()

    return run


def test_the_script_prints_both_scores(run, capsys):
    assert run("--folds", "1") == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == "clips: accuracy of the frozen probe and of fine-tuning"
    assert lines[1].startswith("\rfold 0: ")
    assert lines[1].split()[-2:] == lines[2].split()[-2:]  # of one fold
    assert all(0 <= float(score) <= 1 for score in lines[2].split()[-2:])


def test_the_script_saves_a_model_that_can_be_loaded(run, tiny_model, tmp_path, capsys):
    path = tmp_path / "tuned.safetensors"
    assert run("--folds", "0", "--save", path) == 0
    assert f"{path}: fine-tuned on all 12 clips" in capsys.readouterr().out
    model = serab_byols.load_model(path)
    assert model.embedding_size == tiny_model.embedding_size
    assert not torch.equal(model.encoder.fc[0].weight, tiny_model.encoder.fc[0].weight)
    facts = model.training_facts
    assert (facts["task"], facts["labels"], facts["clips"]) == ("clips", ["a", "b"], 12)
    assert facts["settings"]["epochs"] == 1
    clip = torch.from_numpy(voice(3, 0.5))
    embedding = serab_byols.get_scene_embeddings([clip], model)[0]
    torch.testing.assert_close(embedding, model(clip[None])[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tuned.pth", "ending in .safetensors"),
        ("none/tuned.safetensors", "does not exist"),
        ("input.safetensors", "is also an input"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_the_training(
    run, tiny_checkpoint, tmp_path, capsys, name, message
):
    before = tiny_checkpoint.read_bytes()
    (tmp_path / "input.safetensors").symlink_to(tiny_checkpoint)
    with pytest.raises(SystemExit):
        run("--save", tmp_path / name)
    assert message in capsys.readouterr().err
    assert tiny_checkpoint.read_bytes() == before
    assert not (tmp_path / "tuned.pth").exists()
