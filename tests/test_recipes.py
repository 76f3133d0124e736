"""The scripts in recipes/ that weights are made with."""

import runpy
import sys

import pandas
import pytest
import torch
from parity_data import ROOT

import serab_byols
from serab_byols.checkpoint import load_model


def run(name, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "recipes" / name), run_name="__main__")


def test_a_widened_encoder_begins_with_the_narrow_one(tiny_checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "wide.safetensors"
    run("widen.py", tiny_checkpoint, out, 40, monkeypatch=monkeypatch)
    narrow, wide = load_model(tiny_checkpoint), load_model(out)
    clips = torch.rand(2, 8000, generator=torch.Generator().manual_seed(0)) - 0.5
    expected, embeddings = (serab_byols.get_scene_embeddings(clips, model) for model in (narrow, wide))
    torch.testing.assert_close(embeddings[:, :16], expected, rtol=0, atol=1e-5)
    assert embeddings.shape == (2, 40)
    assert (embeddings[:, 16:].std(dim=0) > 0).any()


def test_only_a_wider_audiontt_is_made(tiny_checkpoint, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="is no AudioNTT of at most d=8"):
        run("widen.py", tiny_checkpoint, tmp_path / "wide.safetensors", 8, monkeypatch=monkeypatch)


def test_the_average_is_that_of_all_weights(tiny_checkpoint, tmp_path, monkeypatch):
    paths = [tiny_checkpoint, tmp_path / "other.safetensors", tmp_path / "mean.safetensors"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        serab_byols.save_checkpoint(serab_byols.create_model("default", d=16), paths[1])
    run("average.py", *paths, monkeypatch=monkeypatch)
    first, second, mean = (load_model(path).encoder.state_dict() for path in paths)
    for name, values in mean.items():
        if values.is_floating_point():
            torch.testing.assert_close(values, (first[name] + second[name]) / 2)


def test_learning_curves_show_every_weights_and_task(tmp_path, monkeypatch):
    table = ROOT / "checkpoints" / "learning_curves.csv"
    run("learning_curves.py", table, tmp_path / "curves.png", monkeypatch=monkeypatch)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    rows = pandas.read_csv(table)
    figure = runpy.run_path(str(ROOT / "recipes" / "learning_curves.py"))["learning_curves"](rows)
    assert [panel.get_title() for panel in figure.axes] == ["keywords", "emotions", "sounds"]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == list(rows["weights"].unique())
    for panel in figure.axes:
        for name, line in zip(shown, panel.containers):
            of_name = rows[rows["weights"] == name].groupby("crops")[panel.get_title()].mean()
            assert list(line[0].get_ydata()) == pytest.approx(list(of_name))
