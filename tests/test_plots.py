"""Pictures: what is on their axes, in which units, and that the numbers drawn are right."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sounds import tone, voice, write

import serab_byols
from serab_byols.cli import main
from serab_byols.errors import AudioFileError, InvalidInputError, MissingExtraError
from serab_byols.viz import plot_embeddings, plot_timestamps
from serab_byols.viz.category_styles import (
    COLOURS,
    MOST_CATEGORIES,
    OTHER,
    OTHER_COLOUR,
    categories,
    is_scale,
    style,
)
from serab_byols.viz.figures import COLUMN_MM
from serab_byols.viz.projection import principal_components, project, unit_length
from serab_byols.viz.self_similarity import novelty_curve
from serab_byols.viz.timestamp_plot import MOST_COLUMNS

RATE_HZ = 16000


@pytest.fixture(autouse=True)
def _figures_closed():
    yield
    pyplot.close("all")


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "embedding": list(rng.normal(size=(12, 6)).astype(np.float32)),
            "label": ["a$b$", "c", ""] * 4,
            "age": np.linspace(20, 70, 12),
        }
    )


# Timestamps


def test_a_recording_is_drawn_on_one_time_axis(narrow):
    axes = plot_timestamps(voice(0, 2.0), narrow(), hop_size=100)
    assert [each.get_ylabel() for each in axes] == ["amplitude", "frequency (Hz)", "time (s)", "novelty"]
    assert axes[3].get_xlabel() == "time (s)"
    assert {each.get_xlim() for each in axes} == {(0.0, 2.0)}
    assert axes[2].get_ylim() == (0.0, 2.0)
    bars = [each.child_axes[0].get_ylabel() for each in axes[1:3]]
    assert bars == ["level (dB)", "cosine similarity"]
    figure = axes[0].figure
    assert figure.get_size_inches()[0] * 25.4 == pytest.approx(COLUMN_MM)
    assert figure.number in pyplot.get_fignums()  # so that a notebook shows it
    figure.canvas.draw()
    widths = {round(each.get_position().width, 6) for each in axes}
    assert len(widths) == 1  # colour bars take no room from some of them


def test_similarities_are_those_of_the_timestamp_embeddings(narrow):
    model, samples = narrow(), voice(1, 1.0)
    axes = plot_timestamps(samples, model, frame_duration=400, hop_size=50)
    embeddings, _ = serab_byols.get_timestamp_embeddings(samples[None], model, 400, 50)
    unit = torch.nn.functional.normalize(embeddings[0], dim=1)
    drawn = axes[2].images[0]
    torch.testing.assert_close(torch.tensor(np.asarray(drawn.get_array())), unit @ unit.T)
    assert drawn.get_extent() == pytest.approx([-0.025, 1.025, -0.025, 1.025])
    times_s, novelty = axes[3].lines[0].get_data()
    np.testing.assert_allclose(times_s, np.arange(21) * 0.05, rtol=1e-6)
    np.testing.assert_allclose(novelty[1:], novelty_curve(unit.numpy(), 8)[1:], rtol=1e-5)


def test_a_tone_lies_at_its_frequency(narrow):
    axes = plot_timestamps(tone(1000, 0.5, RATE_HZ), narrow(), hop_size=250)
    level_db = np.asarray(axes[1].images[0].get_array())
    (at_1_khz,) = (
        tick
        for tick, label in zip(axes[1].get_yticks(), axes[1].get_yticklabels())
        if label.get_text() == "1000"
    )
    assert abs(level_db.mean(axis=1).argmax() - at_1_khz) < 1
    loud = plot_timestamps(10 * tone(1000, 0.5, RATE_HZ), narrow(), hop_size=250)
    assert np.asarray(loud[1].images[0].get_array()).max() - level_db.max() == pytest.approx(20, abs=0.01)


def test_a_change_of_sound_is_a_peak_of_novelty(narrow):
    samples = np.concatenate([tone(200, 1.5, RATE_HZ), tone(3000, 1.5, RATE_HZ)])
    axes = plot_timestamps(samples, narrow(), frame_duration=200, hop_size=50, kernel_s=0.5)
    times_s, novelty = axes[3].lines[0].get_data()
    middle = (times_s > 0.5) & (times_s < 2.5)
    assert times_s[middle][np.argmax(novelty[middle])] == pytest.approx(1.5, abs=0.2)  # a frame


def test_files_segments_and_rates(narrow, tmp_path):
    path = write(tmp_path / "a.wav", voice(0, 3.0))
    axes = plot_timestamps(path, narrow(), start=1.0, end=2.0, hop_size=100)
    assert axes[0].get_xlim() == (1.0, 2.0)
    assert axes[3].lines[0].get_xdata()[0] == 1.0
    resampled = plot_timestamps(voice(0, 1.0, 8000), narrow(), sample_rate=8000, hop_size=100)
    assert resampled[0].get_xlim() == (0.0, 1.0)
    tensor = plot_timestamps(torch.from_numpy(voice(0, 1.0)), narrow(), hop_size=100)
    assert tensor[0].get_xlim() == (0.0, 1.0)


def test_long_recordings_are_averaged(narrow):
    samples = voice(0, 30.0)
    axes = plot_timestamps(samples, narrow(), frame_duration=30, hop_size=20, dense=True)
    assert axes[1].images[0].get_array().shape == (64, MOST_COLUMNS)
    assert axes[2].images[0].get_array().shape == (MOST_COLUMNS, MOST_COLUMNS)
    assert axes[2].images[0].get_array().max() == pytest.approx(1.0, abs=1e-5)
    assert len(axes[3].lines[0].get_xdata()) == 1501  # novelty is not
    extremes = axes[0].collections[0].get_datalim(axes[0].transData)
    assert extremes.ymax == pytest.approx(samples.max(), rel=1e-6)
    assert extremes.ymin == pytest.approx(samples.min(), rel=1e-6)


@pytest.mark.parametrize("seconds", [0.001, 0.04])
def test_short_and_silent_clips(narrow, seconds):
    axes = plot_timestamps(np.zeros(round(seconds * RATE_HZ), np.float32), narrow())
    axes[0].figure.canvas.draw()
    assert np.isfinite(np.asarray(axes[1].images[0].get_array())).all()


def test_own_axes_are_used_and_their_text_is_left_alone(narrow):
    figure = Figure()
    own = figure.subplots(2, 2)
    before = own[0, 0].yaxis.label.get_fontsize()
    axes = plot_timestamps(voice(0), narrow(), axes=own)
    assert list(axes) == list(own.flat)
    assert own[0, 0].yaxis.label.get_fontsize() == before
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("audio", "options", "said"),
    [
        (voice(0), {"axes": [None]}, "draws on 4 axes, got 1"),
        (voice(0), {"kernel_s": 0.0}, "kernel_s must be a positive"),
        (voice(0), {"start": 0.1}, "start and end are for files"),
        ("a.wav", {"sample_rate": 16000}, "a file states its own"),
        ([0.0, 0.1], {}, "audio must be samples or a path, got list"),
        (np.zeros(9, np.int16), {}, "floating point"),
        (voice(0), {"hop_size": 0}, "hop_size must be"),
    ],
)
def test_what_cannot_be_drawn(narrow, audio, options, said):
    with pytest.raises(InvalidInputError, match=said):
        plot_timestamps(audio, narrow(), **options)
    assert pyplot.get_fignums() == []


def test_a_missing_file(narrow):
    with pytest.raises(AudioFileError, match="no such file"):
        plot_timestamps("nowhere.wav", narrow())


def test_novelty_is_that_of_the_checkerboard_kernel():
    rng = np.random.default_rng(3)
    vectors = unit_length(rng.normal(size=(30, 5)))
    half_width, similarity = 4, vectors @ vectors.T
    expected = np.full(30, np.nan)
    for t in range(1, 30):
        within, across = [0.0, 0.0], [0.0, 0.0]
        for i in range(-half_width, half_width):
            for j in range(-half_width, half_width):
                if 0 <= t + i < 30 and 0 <= t + j < 30:
                    taper = np.exp(-2 * (((i + 0.5) / half_width) ** 2 + ((j + 0.5) / half_width) ** 2))
                    side = within if (i < 0) == (j < 0) else across
                    side[0] += taper * similarity[t + i, t + j]
                    side[1] += taper
        expected[t] = within[0] / within[1] - across[0] / across[1]
    np.testing.assert_allclose(novelty_curve(vectors, half_width), expected, rtol=1e-5)
    assert np.isnan(novelty_curve(vectors[:1], 3)).all()


# Maps


def test_categories_have_colours_and_names(table):
    axes = plot_embeddings(table, colour="label")
    legend = axes.get_legend()
    assert legend.get_title().get_text() == "label"
    assert [text.get_text() for text in legend.get_texts()] == ["(none)", r"a\$b\$", "c"]
    drawn = {group.get_label(): group for group in axes.collections}
    assert to_hex(drawn["c"].get_facecolor()[0]).upper() == COLOURS[2]
    assert len(drawn["c"].get_offsets()) == 4
    assert re.fullmatch(r"component 1 \(\d+% of variance\)", axes.get_xlabel())
    assert axes.get_ylabel().startswith("component 2 (")
    axes.figure.canvas.draw()


def test_a_long_legend_lies_below_the_map():
    values = [f"v{i:02}" for i in range(24)]
    table = pandas.DataFrame({"embedding": list(np.eye(24)), "label": values, "few": ["a", "b"] * 12})
    heights = []
    for column in ("few", "label"):
        axes = plot_embeddings(table, colour=column)
        axes.figure.canvas.draw()
        heights.append(axes.get_window_extent().height)
        label, legend = axes.xaxis.label.get_window_extent(), axes.get_legend().get_window_extent()
        assert legend.y1 <= label.y0
        assert legend.y0 >= 0
    assert heights[1] == pytest.approx(heights[0], rel=0.1)


def test_numbers_are_a_scale_with_a_bar(table):
    table.loc[3, "age"] = np.nan
    axes = plot_embeddings(table, colour="age")
    unknown, known = axes.collections
    assert to_hex(unknown.get_facecolor()[0]).upper() == OTHER_COLOUR
    assert (len(unknown.get_offsets()), len(known.get_offsets())) == (1, 11)
    assert known.get_cmap().name == "viridis"
    assert axes.child_axes[0].get_ylabel() == "age"
    frames = table.rename(columns={"age": "time"})
    assert plot_embeddings(frames, colour="time").child_axes[0].get_ylabel() == "time (s)"


def test_without_a_column_all_points_are_alike(table):
    axes = plot_embeddings(table)
    assert axes.get_legend() is None
    assert len(axes.collections[0].get_offsets()) == 12
    own = Figure().subplots()
    assert plot_embeddings(table, axes=own) is own
    with pytest.raises(InvalidInputError, match="no column 'colour'; it has 'label', 'age'"):
        plot_embeddings(table, colour="colour")


def test_the_most_common_values_are_categories():
    values = np.array(["rare"] + [f"v{i:02}" for i in range(MOST_CATEGORIES)] * 2, dtype=object)
    given = categories(values)
    assert given.names[-1] == OTHER
    assert "rare" not in given.names
    assert given.codes[0] == MOST_CATEGORIES
    styles = {style(code, given) for code in range(len(given.names))}
    assert len(styles) == MOST_CATEGORIES + 1
    assert style(MOST_CATEGORIES, given) == (OTHER_COLOUR, 0)
    assert categories(np.array([10, 9, 9])).names == ["9", "10"]  # as numbers
    assert [is_scale(np.arange(n)) for n in (8, 9)] == [False, True]
    assert is_scale(np.array([0.5]))
    assert not is_scale(values)


def test_components_are_those_of_a_singular_value_decomposition():
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32) * [3, 2, 1, 0.5, 0.1]
    scores, shares = principal_components(vectors, 2)
    u, s, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(scores), np.abs(u[:, :2] * s[:2]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shares, s[:2] ** 2 / (s**2).sum(), rtol=1e-6)
    again, _ = principal_components(np.ascontiguousarray(vectors[::-1]), 2)
    np.testing.assert_allclose(again[::-1], scores, atol=1e-5)  # signs too


@pytest.mark.parametrize("shape", [(1, 4), (3, 1), (5, 4)])
def test_maps_of_next_to_nothing(shape):
    assert project(np.ones(shape, np.float32)).points.tolist() == [[0.0, 0.0]] * shape[0]


def test_umap_where_it_is_installed(monkeypatch):
    rng = np.random.default_rng(0)
    embedding = np.concatenate([rng.normal(size=(30, 8)), rng.normal(size=(30, 8)) + 9]).astype(np.float32)
    with pytest.raises(InvalidInputError, match="unknown map 'tsne'; choose from auto, pca, umap"):
        project(embedding, "tsne")
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    assert project(embedding).method == "pca"
    with pytest.raises(MissingExtraError, match=r"serab-byols\[umap\]"):
        project(embedding, "umap")


def test_umap_itself():
    pytest.importorskip("umap", reason="needs umap-learn")
    rng = np.random.default_rng(0)
    embedding = np.concatenate([rng.normal(size=(30, 8)), rng.normal(size=(30, 8)) + 9]).astype(np.float32)
    found = project(embedding, "auto")
    assert (found.method, found.labels) == ("umap", ("UMAP 1", "UMAP 2"))
    np.testing.assert_array_equal(project(embedding, "umap").points, found.points)
    groups = found.points.reshape(2, 30, 2)
    assert np.linalg.norm(np.diff(groups.mean(axis=1), axis=0)) > 2 * groups.std(axis=1).max()


# The command


def test_the_command_draws_recordings(tiny_checkpoint, tmp_path, capsys):
    clip = write(tmp_path / "a.wav", voice(0, 1.0))
    command = ["plot", "timestamps", str(clip), "--model", str(tiny_checkpoint), "--hop-size", "200"]
    assert main([*command, "-o", str(tmp_path / "a.png")]) == 0
    width, height = np.array(pyplot.imread(tmp_path / "a.png").shape)[[1, 0]] / 300 * 25.4
    assert width == pytest.approx(COLUMN_MM, abs=0.2)
    assert height > 100
    assert main([*command, "-o", str(tmp_path / "a.svg")]) == 0
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    for output, said in [
        ("a.wav", "must end in .png, .pdf, .svg"),
        ("none/a.png", "does not exist or cannot be written"),
    ]:
        assert main([*command, "-o", str(tmp_path / output)]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "link.png").symlink_to(clip)
    assert main([*command, "-o", str(tmp_path / "link.png")]) == 2
    assert "is also an input" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


def test_the_command_draws_maps(table, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    path = tmp_path / "table.parquet"
    table.to_parquet(path)
    command = ["plot", "embeddings", str(path), "--colour", "label", "-o"]
    assert main([*command, str(tmp_path / "map.png")]) == 0
    assert pyplot.imread(tmp_path / "map.png").std() > 0.01
    (tmp_path / "link.pdf").symlink_to(path)
    assert main([*command, str(tmp_path / "link.pdf")]) == 2
    assert "is also an input" in capsys.readouterr().err
    assert main(["plot", "embeddings", str(path), "--colour", "x", "-o", str(tmp_path / "x.png")]) == 2
    assert "no column 'x'" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_names_that_the_font_lacks_are_no_warning(table, tmp_path):
    table["label"] = ["\N{CJK UNIFIED IDEOGRAPH-4E2D}", "b", "c"] * 4
    np.savez(tmp_path / "t.npz", embedding=np.stack(table["embedding"]), label=np.array(list(table["label"])))
    arguments = ["plot", "embeddings", str(tmp_path / "t.npz"), "--colour", "label"]
    assert main([*arguments, "-o", str(tmp_path / "m.png")]) == 0


def test_without_matplotlib_the_extra_is_named(table, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"serab-byols\[plot\]"):
        plot_embeddings(table)
