"""A recording over time: waveform, log-mel, self-similarity of its timestamp embeddings, novelty."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from serab_byols.corpus.decoding import AudioClip, resample_array
from serab_byols.errors import InvalidInputError
from serab_byols.frontend import HOP_SAMPLES, N_MELS, mel_edges_hz
from serab_byols.hear import FRAME_DURATION_MS, HOP_SIZE_MS, get_timestamp_embeddings
from serab_byols.inference.context import inference_context
from serab_byols.inference.frame_grid import MS_PER_S
from serab_byols.inference.streaming import split_into_blocks, stream_log_mel
from serab_byols.inference.waveforms import to_waveforms
from serab_byols.model import ByolsModel
from serab_byols.viz.category_styles import COLOURS
from serab_byols.viz.figures import check_can_plot, column_figure, set_text_size
from serab_byols.viz.projection import unit_length
from serab_byols.viz.self_similarity import novelty_curve, self_similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_AXES = 4
MOST_COLUMNS = 1000
"""Of a picture; where there are more log-mel columns or frames, neighbours are averaged."""

DYNAMIC_RANGE_DB = 80.0
_DB_PER_NEPER_OF_POWER = 10.0 / np.log(10.0)
_FREQUENCY_TICKS_HZ = (250, 1000, 4000)
HEIGHT_MM = 125.0
_HEIGHTS = (1.0, 1.3, 4.0, 1.0)


class _Recording(NamedTuple):
    samples: np.ndarray  # (n,), mono, at the model's rate
    start_s: float  # of the first sample in the file


def plot_timestamps(
    audio: np.ndarray | torch.Tensor | str | os.PathLike[str],
    model: ByolsModel,
    *,
    sample_rate: int | None = None,
    start: float | None = None,
    end: float | None = None,
    frame_duration: float = FRAME_DURATION_MS,
    hop_size: float = HOP_SIZE_MS,
    dense: bool = False,
    kernel_s: float | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw a recording and its timestamp embeddings on one time axis.

    From above: the waveform; the log-mel in dB; the cosine similarity of every two frames; and the novelty
    curve (Foote, "Automatic audio segmentation using a measure of audio novelty", ICME 2000), which is high
    where what follows sounds unlike what came before, and alike in itself.

    Args:
        audio: samples (n,), or (n_channels, n) to be mixed, floating point; or the path of a file.
        model: from :func:`load_model` or :func:`create_model`.
        sample_rate: of samples, in Hz; by default the model's.
        start, end: segment of a file in seconds; by default the whole file.
        frame_duration, hop_size: of the frames, in milliseconds.
        dense: approximate frames, as in :func:`get_timestamp_embeddings`.
        kernel_s: seconds that novelty looks to each side; by default a frame's length.
        axes: four axes to draw on, from above; by default a new figure of pyplot's, 85 mm wide.

    Returns:
        The four axes, an object array (4,).

    Raises:
        AudioFileError: the file is missing or unreadable, or the segment is outside of it.
        InvalidInputError: unsuitable samples, frames or axes.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> model = serab_byols.load_model()
        >>> axes = serab_byols.viz.plot_timestamps(clip_path, model, hop_size=100)
        >>> axes[-1].get_xlabel()
        'time (s)'
    """
    if kernel_s is not None and not kernel_s > 0:
        raise InvalidInputError(f"kernel_s must be a positive number of seconds, got {kernel_s!r}")
    given = None if axes is None else np.ravel(np.asarray(axes, dtype=object))
    if given is not None and len(given) != N_AXES:
        raise InvalidInputError(f"plot_timestamps draws on {N_AXES} axes, got {len(given)}")
    check_can_plot()
    recording = _recording(audio, model, sample_rate, start, end)
    embeddings, timestamps_ms = get_timestamp_embeddings(
        [recording.samples], model, frame_duration, hop_size, dense=dense
    )
    vectors = unit_length(embeddings[0].cpu().numpy())
    figure = column_figure(HEIGHT_MM, of_pyplot=True) if given is None else None
    drawn = given if figure is None else timestamp_axes(figure)
    assert drawn is not None
    half_width = max(1, round((kernel_s or frame_duration / MS_PER_S) * MS_PER_S / hop_size))
    _draw_waveform(drawn[0], recording, model.sample_rate)
    _draw_log_mel(drawn[1], recording, model)
    _draw_similarity(drawn[2], vectors, recording.start_s, hop_size / MS_PER_S)
    times_s = recording.start_s + timestamps_ms[0].cpu().numpy() / MS_PER_S
    _draw_novelty(drawn[3], novelty_curve(vectors, half_width), times_s)
    duration_s = len(recording.samples) / model.sample_rate
    drawn[3].set_xlim(recording.start_s, recording.start_s + duration_s)
    drawn[2].set_ylim(drawn[3].get_xlim())
    if figure is not None:
        set_text_size(figure)
    return drawn


def timestamp_axes(figure: Figure) -> np.ndarray:
    """Four axes (4,) with one time axis, to draw a recording on."""
    return figure.subplots(N_AXES, 1, sharex=True, gridspec_kw={"height_ratios": _HEIGHTS})


def _recording(
    audio: object, model: ByolsModel, sample_rate: int | None, start: float | None, end: float | None
) -> _Recording:
    if isinstance(audio, (str, bytes, os.PathLike)):
        if sample_rate is not None:
            raise InvalidInputError("sample_rate is for samples; a file states its own")
        with AudioClip(os.fsdecode(audio), start, end) as clip:
            return _Recording(clip.read(model.sample_rate), clip.start_s)
    if start is not None or end is not None:
        raise InvalidInputError("start and end are for files; pass a part of the samples")
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu().float().numpy() if audio.is_floating_point() else audio.cpu().numpy()
    if not isinstance(audio, np.ndarray):
        raise InvalidInputError(f"audio must be samples or a path, got {type(audio).__name__}")
    return _Recording(resample_array(audio, sample_rate or model.sample_rate, model.sample_rate), 0.0)


def _draw_waveform(axes: Axes, recording: _Recording, rate_hz: int) -> None:
    """All samples, or their extremes where there are more than can be seen."""
    samples = recording.samples
    edges = _group_edges(len(samples), 2 * MOST_COLUMNS)
    low, high = np.minimum.reduceat(samples, edges[:-1]), np.maximum.reduceat(samples, edges[:-1])
    middles_s = recording.start_s + (edges[:-1] + edges[1:] - 1) / 2 / rate_hz
    if len(low) == len(samples):
        axes.plot(middles_s, samples, linewidth=0.5, color=COLOURS[0])
    else:
        axes.fill_between(middles_s, low, high, linewidth=0.3, color=COLOURS[0])
    most = max(float(np.abs(samples).max()), 1e-4)
    axes.set(ylabel="amplitude", ylim=(-1.05 * most, 1.05 * most))


def _draw_log_mel(axes: Axes, recording: _Recording, model: ByolsModel) -> None:
    with inference_context():
        (waveform,) = to_waveforms([recording.samples], model.device)
        log_mels = stream_log_mel(model.frontend, split_into_blocks(waveform), model.min_samples)
        log_mel = torch.cat([block.float().cpu() for block in log_mels], dim=1).numpy()  # (64, T)
    level_db = _averaged(log_mel, axis=1) * _DB_PER_NEPER_OF_POWER
    hop_s = HOP_SAMPLES / model.sample_rate
    left_s, right_s = recording.start_s - hop_s / 2, recording.start_s + (log_mel.shape[1] - 0.5) * hop_s
    highest = float(level_db.max())
    image = axes.imshow(
        level_db,
        origin="lower",
        aspect="auto",
        extent=(left_s, right_s, -0.5, N_MELS - 0.5),
        cmap="viridis",
        vmin=max(highest - DYNAMIC_RANGE_DB, min(float(level_db.min()), highest - 1.0)),
        vmax=highest,
        interpolation="nearest",
    )
    centres_hz = mel_edges_hz()[1:-1]
    axes.set_yticks(np.interp(_FREQUENCY_TICKS_HZ, centres_hz, np.arange(N_MELS)))
    axes.set_yticklabels([str(hz) for hz in _FREQUENCY_TICKS_HZ])
    axes.set_ylabel("frequency (Hz)")
    _colour_bar(axes, image, "level (dB)")


def _draw_similarity(axes: Axes, vectors: np.ndarray, start_s: float, hop_s: float) -> None:
    grouped = unit_length(_averaged(vectors, axis=0))
    first_s, last_s = start_s - hop_s / 2, start_s + (len(vectors) - 0.5) * hop_s
    image = axes.imshow(
        self_similarity(grouped),
        origin="lower",
        aspect="auto",
        extent=(first_s, last_s, first_s, last_s),
        cmap="cividis",
        vmax=1.0,
        interpolation="nearest",
    )
    axes.set_ylabel("time (s)")
    _colour_bar(axes, image, "cosine similarity")


def _draw_novelty(axes: Axes, novelty: np.ndarray, times_s: np.ndarray) -> None:
    marker = "o" if len(novelty) < 3 else None  # of one point there is no line
    axes.plot(times_s, novelty, linewidth=0.9, marker=marker, markersize=3, color=COLOURS[3])
    axes.margins(y=0.1)
    axes.set(xlabel="time (s)", ylabel="novelty")


def _colour_bar(axes: Axes, image: Any, label: str) -> None:
    """Beside the axes, taking no room from them, so that all time axes stay equally long."""
    beside = axes.inset_axes((1.02, 0.0, 0.03, 1.0))
    bar = axes.figure.colorbar(image, cax=beside)
    bar.set_label(label)


def _group_edges(n: int, most: int) -> np.ndarray:
    """Edges of at most ``most`` groups of neighbours, int64; sizes differ by one at most."""
    return np.linspace(0, n, min(n, most) + 1).round().astype(np.int64)


def _averaged(values: np.ndarray, axis: int) -> np.ndarray:
    edges = _group_edges(values.shape[axis], MOST_COLUMNS)
    if len(edges) - 1 == values.shape[axis]:
        return values
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.add.reduceat(values, edges[:-1], axis=axis) / np.diff(edges).reshape(shape)
