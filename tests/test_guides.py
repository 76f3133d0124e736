"""The guides and pages for everyone: their code runs, and what they state is so."""

import re

import numpy as np
import pytest
import torch
from page_code import run_page
from parity_data import ROOT, assert_close_to_peak

import serab_byols

pytestmark = pytest.mark.usefixtures("one_thread")


def table(page, columns):
    """Rows of the page's first table that has these columns, as dictionaries of text."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for i, header in enumerate(cells):
        if set(columns) <= set(header):
            end = next(k for k in range(i, len(lines) + 1) if k == len(lines) or not lines[k].startswith("|"))
            return [dict(zip(header, row)) for row in cells[i + 2 : end]]
    raise AssertionError(f"{page} has no table of {columns}")


def test_the_start_page_runs(folder):
    assert run_page("docs/index.md")["record"].embedding.shape == (512,)


def test_the_guide_for_hear_runs(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)  # where a reader starts Python
    session = run_page("docs/hear-guide.md")
    assert session["scenes"].shape == (2, 512)
    assert session["frames"].shape == (2, 101, 512)
    assert session["timestamps"][0, :3].tolist() == [0, 20, 40]


def test_the_guide_for_notebooks_runs(folder):
    pytest.importorskip("sklearn")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    try:
        session = run_page("docs/notebooks.md")
    finally:
        pyplot.close("all")
    assert session["frames"].embedding.shape == (63, 512)
    np.testing.assert_allclose(session["embedding"], session["record"].embedding, rtol=1e-4, atol=1e-4)
    assert session["table"].shape == (5, 512)
    assert session["model"].training_facts["data"] == "two clips of noise"
    assert (folder / "scores.json").is_file()


def test_the_guide_for_corpora_runs(folder):
    pytest.importorskip("plotly")
    pytest.importorskip("matplotlib")
    assert run_page("docs/files.md")["features"].shape == (5, 512)
    assert (folder / "frames.npz").is_file()
    assert (folder / "corpus.html").is_file()


def test_the_guide_for_training_runs(folder):
    session = run_page("docs/training.md")
    assert session["model"].embedding_size == 64
    assert session["model"].resolved_normalization == session["model"].statistics is not None
    assert (folder / "trained.loss.png").is_file()


def test_the_faq_runs(folder):
    session = run_page("docs/faq.md")
    shown = re.search(
        r"print\(similarity.*# (\S+) and (\S+)", (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    )
    measured = [session["similarity"](rule) for rule in ("clip", "auto")]
    np.testing.assert_allclose(measured, [float(number) for number in shown.groups()], atol=0.01)


# --- encoders --------------------------------------------------------------------------------------


def test_the_page_on_encoders_runs(folder):
    run_page("docs/encoders.md")


def test_the_table_of_encoders_is_true():
    rows = table("encoders.md", ["`model_name`", "D", "parameters"])
    assert {row["`model_name`"].strip("`") for row in rows} == {"default", "resnetish34", "clstm", "cvt"}
    for row in rows:
        d = re.search(r"d=(\d+)", row["architecture"])
        model = serab_byols.create_model(row["`model_name`"].strip("`"), **({"d": int(d[1])} if d else {}))
        n_parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
        assert row["D"] == str(model.embedding_size)
        assert row["parameters"] == f"{n_parameters / 1e6:.1f} M"
        assert row["shortest clip without padding"] == f"{np.ceil(model.min_samples / 16):.0f} ms"


def test_times_of_encoders_are_those_of_the_benchmarks():
    names = {"default, d=2048": "AudioNTT, `d=2048`", "default, d=512": "AudioNTT, `d=512`"}
    times = {row["architecture"]: row["time of a scene"] for row in table("encoders.md", ["time of a scene"])}
    by_name = {row["`model_name`"].strip("`"): row["architecture"] for row in table("encoders.md", ["D"])}
    measured = {
        row["encoder"]: float(row["library ms"]) for row in table("benchmarks.md", ["encoder", "library ms"])
    }
    assert len(measured) == len(times) == 5
    for encoder, milliseconds in measured.items():
        ratio = milliseconds / measured["default, d=2048"]
        stated = float(times[names.get(encoder) or by_name[encoder]])
        assert stated == pytest.approx(ratio, rel=0.08), encoder


# --- the published package ---------------------------------------------------------------------------


def published_scenes(clips, model):
    """As in the published code: means and standard deviations of the clips, averaged over all of them."""
    log_mels = [model.frontend(clip[None]) for clip in clips]
    mean = torch.stack([log_mel.mean() for log_mel in log_mels]).mean()
    std = torch.stack([log_mel.std() for log_mel in log_mels]).mean()
    return torch.cat([model.encoder(((log_mel - mean) / std)[:, None]) for log_mel in log_mels])


def published_timestamps(clips, model, frame_samples, hop_ms=50):
    """Every frame by itself; statistics of all of them, divided by their number."""
    padded = torch.nn.functional.pad(clips, (frame_samples // 2, frame_samples - frame_samples // 2))
    starts = range(0, clips.shape[1] + 1, hop_ms * 16)
    frames = torch.stack([padded[:, start : start + frame_samples] for start in starts], dim=1)
    log_mels = model.frontend(frames.flatten(0, 1))
    mean, std = log_mels.mean() / len(log_mels), log_mels.std() / len(log_mels)
    return model.encoder(((log_mels - mean) / std)[:, None]).unflatten(0, (len(clips), len(starts)))


def test_the_page_on_migration_gives_the_old_numbers(folder):
    session = run_page("docs/migration.md")
    clips, model = session["audio"], serab_byols.load_model()
    with torch.no_grad():
        assert_close_to_peak(session["scenes"], published_scenes(clips, model))
        assert_close_to_peak(session["frames"], published_timestamps(clips, model, 16000))
    assert session["n_samples"] == 16015
    model.normalization = "clip"
    ours, _ = serab_byols.get_timestamp_embeddings(clips, model, frame_duration=1001)
    assert not torch.allclose(session["old_length"], ours, atol=1e-5)


def test_int_cuts_as_many_frames_as_the_page_says():
    cut = [ms for ms in range(1, 20001) if int(ms / 1000 * 16000) != round(ms * 16)]
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    stated = re.search(r"one\s+sample\s+short\s+for\s+(\d+)\s.*?The\s+first\s+is\s+(\d+)", page, re.DOTALL)
    assert [len(cut), cut[0]] == [int(number) for number in stated.groups()]
