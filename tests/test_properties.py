"""What must hold of any clip, batch, rate, level, format and option; hypothesis looks for where it does not.

The same examples every time; ``PROPERTY_EXAMPLES=500 pytest tests/test_properties.py`` looks further, at
others every time.
"""

import math
import os
import warnings
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from parity_data import assert_close_to_peak

from serab_byols import (
    embed_audio,
    embed_file,
    embed_files,
    get_scene_embeddings,
    get_timestamp_embeddings,
    load_model,
    save_checkpoint,
)
from serab_byols.corpus import decode_ahead, decoding
from serab_byols.encoders import ENCODERS
from serab_byols.inference import scenes, streaming, timestamps
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.inference.waveforms import MAX_AMPLITUDE

N_EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "0"))


def property_of(**arguments):
    """A test over drawn arguments; ``n`` is how many are drawn where nobody asks for more."""
    n = arguments.pop("n", 12)

    def decorate(test):
        options = settings(
            max_examples=N_EXAMPLES or n,
            derandomize=not N_EXAMPLES,
            database=None,
            deadline=None,
            # The fixtures are models and a folder, which examples do not change.
            suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        )
        return options(given(**arguments)(test))

    return decorate


each_encoder = pytest.mark.parametrize("name", list(ENCODERS))
PER_CLIP_RULES = st.sampled_from(["auto", "clip", (-6.0, 5.0)])
LEVELS = st.floats(-160, 55).map(lambda level_db: 10 ** (level_db / 20))
"""Peaks from 1e-8, far below what 16 bits hold, to 560, just below what is warned of."""


class Clip(NamedTuple):
    """What a clip is made of, which says more than its samples where a property fails."""

    kind: str
    n_samples: int
    seed: int
    level: float = 0.5
    n_channels: int = 1

    @property
    def samples(self):
        """float32 (n_samples,), or (n_samples, n_channels) of several."""
        rng = np.random.default_rng(self.seed)
        shape = self.n_samples if self.n_channels == 1 else (self.n_samples, self.n_channels)
        time_s = np.arange(self.n_samples) / 16000
        if self.kind == "tone":
            values = np.sin(2 * np.pi * rng.uniform(50, 7000) * time_s + rng.uniform(0, 6))
        elif self.kind == "click":
            values = np.zeros(self.n_samples)
            values[rng.integers(self.n_samples)] = 1
        elif self.kind == "step":
            values = np.repeat(rng.uniform(-1, 1, 4), math.ceil(self.n_samples / 4))[: self.n_samples]
        elif self.kind == "decay":
            values = rng.uniform(-1, 1, self.n_samples) * np.exp(-20 * time_s)
        else:
            values = rng.uniform(-1, 1, shape)
        return (self.level * values).astype(np.float32)


KINDS = ["noise", "tone", "click", "step", "decay"]
SEEDS = st.integers(0, 2**32 - 1)


def clips(max_samples=9000, min_samples=1):
    """Noise, tones, clicks, steps and sounds that die away, at all levels."""
    n_samples = st.integers(min_samples, max_samples)
    return st.builds(Clip, st.sampled_from(KINDS), n_samples, SEEDS, LEVELS, st.just(1))


def noises(max_samples=9000, min_samples=1, max_channels=1):
    """White noise with a peak of 0.5."""
    n_samples, n_channels = st.integers(min_samples, max_samples), st.integers(1, max_channels)
    return st.builds(Clip, st.just("noise"), n_samples, SEEDS, st.just(0.5), n_channels)


def as_big_endian(samples):
    return samples.astype(">f4")


def as_strided(samples):
    return np.repeat(samples, 2)[::2]


def as_reversed_view(samples):
    return samples[::-1].copy()[::-1]


def as_read_only(samples):
    samples = samples.copy()
    samples.flags.writeable = False
    return samples


def as_tensor_with_gradient(samples):
    return torch.from_numpy(samples).requires_grad_()


def as_strided_tensor(samples):
    return torch.from_numpy(samples).repeat_interleave(3)[::3]


SAME_VALUES = (
    np.copy,
    np.float64,
    np.longdouble,
    as_big_endian,
    as_strided,
    as_reversed_view,
    as_read_only,
    torch.from_numpy,
    as_tensor_with_gradient,
    as_strided_tensor,
    lambda samples: torch.from_numpy(samples).double(),
)
"""Ways to hold the same float32 values."""


@pytest.fixture
def model_of(narrow):
    """A narrow model by encoder name, made once a test."""
    made = {}

    def get(name, normalization="auto"):
        if name not in made:
            made[name] = narrow(name)
        made[name].normalization = normalization
        return made[name]

    return get


def scene(samples, model):
    return get_scene_embeddings([samples], model)[0]


# --- independence, determinism, formats ----------------------------------------------------------


@each_encoder
@property_of(batch=st.lists(clips(), min_size=2, max_size=5), rule=PER_CLIP_RULES, data=st.data(), n=10)
def test_a_scene_depends_on_its_clip_alone(model_of, name, batch, rule, data):
    model = model_of(name, rule)
    batch = [clip.samples for clip in batch]
    order = data.draw(st.permutations(range(len(batch))))
    together = get_scene_embeddings([batch[i] for i in order], model)
    for i, embedding in zip(order, together):
        assert_close_to_peak(embedding, scene(batch[i], model))
    again = get_scene_embeddings([batch[i] for i in order], model)
    assert torch.equal(again, together)


@each_encoder
@property_of(
    batch=st.lists(clips(max_samples=4000), min_size=2, max_size=3),
    rule=PER_CLIP_RULES,
    frame_ms=st.floats(5, 400),
    hop_ms=st.one_of(st.sampled_from([10.0, 20.0, 50.0]), st.floats(20, 200)),
    n=6,
)
def test_frames_depend_on_their_clip_alone(model_of, name, batch, rule, frame_ms, hop_ms):
    model, batch = model_of(name, rule), [clip.samples for clip in batch]
    together, _ = get_timestamp_embeddings(batch, model, frame_ms, hop_ms)
    again, _ = get_timestamp_embeddings(batch[::-1], model, frame_ms, hop_ms)
    for clip, embeddings, reversed_order in zip(batch, together, reversed(again)):
        alone, _ = get_timestamp_embeddings([clip], model, frame_ms, hop_ms)
        assert_close_to_peak(embeddings, alone[0])
        assert torch.equal(embeddings, reversed_order)


@property_of(clip=clips(), convert=st.sampled_from(SAME_VALUES), n=30)
def test_how_values_are_held_does_not_matter(model_of, clip, convert):
    model, held = model_of("default"), convert(clip.samples)
    expected = scene(clip.samples, model)
    assert torch.equal(scene(held, model), expected)
    assert torch.equal(get_scene_embeddings(held[None], model)[0], expected)
    assert torch.equal(embed_audio(held, 16000, model), expected)


@property_of(clip=clips(), dtype=st.sampled_from([torch.float16, torch.bfloat16]), n=10)
def test_half_precision_samples_are_taken_for_their_values(model_of, clip, dtype):
    model, half = model_of("default"), torch.from_numpy(clip.samples).to(dtype)
    assert torch.equal(scene(half, model), scene(half.float(), model))
    assert torch.equal(embed_audio(half, 16000, model), scene(half.float(), model))


# --- finite output -------------------------------------------------------------------------------

EXTREME_SAMPLES = st.one_of(
    st.floats(-1, 1, width=32),
    st.floats(-MAX_AMPLITUDE, MAX_AMPLITUDE),
    st.sampled_from([0.0, 1.0, -1.0, 1e-45, MAX_AMPLITUDE, -MAX_AMPLITUDE]),
)


@each_encoder
@property_of(
    values=st.lists(EXTREME_SAMPLES, min_size=1, max_size=20),
    n_samples=st.integers(1, 3000),
    rule=st.sampled_from(["clip", "batch", "hear2021", (-6.0, 5.0), (0.0, 1e-6)]),
    n=15,
)
@example(values=[0.0], n_samples=1, rule="clip")
@example(values=[MAX_AMPLITUDE, -MAX_AMPLITUDE], n_samples=3000, rule="clip")
def test_any_samples_within_bounds_give_finite_embeddings(model_of, name, values, n_samples, rule):
    model = model_of(name, rule)
    audio = np.resize(np.asarray(values, np.float32), n_samples)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of values that only integers have
        assert get_scene_embeddings(audio, model).isfinite().all()
        assert get_timestamp_embeddings(audio, model, 100, 60)[0].isfinite().all()


# --- timestamps ----------------------------------------------------------------------------------


@property_of(
    n_samples=st.integers(0, 10**6),
    hop_ms=st.one_of(st.floats(0.1, 10_000), st.integers(1, 2000), st.sampled_from([0.0625, 33.3, 12.5])),
    frame_ms=st.floats(0.1, 10_000),
    rate_hz=st.sampled_from([16000, 8000, 44100]),
    n=300,
)
@example(n_samples=16000, hop_ms=0.1, frame_ms=10.0, rate_hz=16000)
@example(n_samples=4805, hop_ms=33.3, frame_ms=10.0, rate_hz=16000)
def test_centres_lie_on_the_grid_and_in_the_clip(n_samples, hop_ms, frame_ms, rate_hz):
    assume(hop_ms * rate_hz >= 1000)
    assume(frame_ms * rate_hz >= 1000)
    grid = FrameGrid(frame_ms, hop_ms, rate_hz)
    n_frames = grid.n_frames(n_samples)
    duration_ms, hop = Fraction(1000 * n_samples, rate_hz), Fraction(hop_ms)
    rounding = duration_ms * Fraction(1, 10**15)  # the product of a hop that has no exact binary number
    assert (n_frames - 1) * hop <= duration_ms + rounding
    assert n_frames * hop > duration_ms - rounding
    centres_ms = grid.timestamps_ms(n_frames)
    assert centres_ms.dtype == np.float32
    assert centres_ms[0] == 0
    last = n_frames - 1
    for k in {last, last // 2, min(1, last)}:
        assert centres_ms[k] == np.float32(k * float(hop_ms))
    # Every frame lies in the padded clip, with its centre at its timestamp to half a sample.
    starts = grid.starts(max(0, n_frames - 3), n_frames)
    padded = grid.pad_before_samples + n_samples + grid.pad_after_samples
    assert starts[0] >= 0
    assert starts[-1] + grid.frame_samples <= padded
    assert abs(starts[-1] - last * hop * rate_hz / 1000) <= Fraction(1, 2) + Fraction(1, 10**6)


@each_encoder
@property_of(clip=clips(max_samples=4000), frame_ms=st.floats(1, 500), hop_ms=st.floats(25, 300), n=6)
def test_there_is_an_embedding_for_every_timestamp(model_of, name, clip, frame_ms, hop_ms):
    model = model_of(name)
    embeddings, centres_ms = get_timestamp_embeddings(clip.samples[None], model, frame_ms, hop_ms)
    n_frames = FrameGrid(frame_ms, hop_ms, 16000).n_frames(clip.n_samples)
    assert embeddings.shape == (1, n_frames, model.timestamp_embedding_size)
    assert torch.equal(centres_ms[0], torch.from_numpy(np.float32(np.arange(n_frames) * hop_ms)))
    assert embeddings.dtype == centres_ms.dtype == torch.float32


# --- files ---------------------------------------------------------------------------------------

LOSSLESS = [
    ("wav", "FLOAT"),
    ("wav", "DOUBLE"),
    ("wav", "PCM_16"),
    ("wav", "PCM_24"),
    ("wav", "PCM_32"),
    ("flac", "PCM_16"),
    ("flac", "PCM_24"),
    ("aiff", "PCM_16"),
    ("au", "FLOAT"),
    ("caf", "PCM_24"),
    ("w64", "PCM_16"),
    ("rf64", "PCM_16"),
]
LOSSY = [("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"), ("wav", "ULAW"), ("wav", "IMA_ADPCM"), ("au", "ALAW")]


@property_of(
    clip=noises(max_channels=8),
    kind=st.sampled_from(LOSSLESS),
    rate_hz=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000]),
    n=25,
)
def test_a_lossless_file_is_its_samples(model_of, tmp_path, clip, kind, rate_hz):
    model, (suffix, subtype) = model_of("default"), kind
    samples = (clip.samples * 32768).round() / 32768  # as 16 bits hold them
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    assume(len(samples) > max(rate_hz / 16000, clip.n_channels))
    expected = embed_audio(samples, rate_hz, model)
    assert torch.equal(torch.from_numpy(embed_file(path, model).embedding), expected)


@pytest.fixture
def stream_in_blocks(monkeypatch):
    """A function: whether files and clips go through in blocks, and of how many samples."""

    def set_blocks(block_samples):
        for owner, attribute, streamed, usual in (
            (decode_ahead, "STREAM_S", 0.0, 60.0),
            (decoding, "_BLOCK_SAMPLES", block_samples, 1 << 16),
            (streaming, "BLOCK_SAMPLES", block_samples, streaming_block),
            (scenes, "BLOCK_SAMPLES", block_samples, streaming_block),
            (timestamps, "_COLUMNS_AT_ONCE", 200, columns_at_once),
        ):
            monkeypatch.setattr(owner, attribute, streamed if block_samples else usual)

    streaming_block, columns_at_once = streaming.BLOCK_SAMPLES, timestamps._COLUMNS_AT_ONCE
    return set_blocks


@each_encoder
@property_of(
    clip=noises(min_samples=4000, max_samples=24000, max_channels=2),
    kind=st.sampled_from(LOSSLESS + LOSSY),
    rate_hz=st.sampled_from([8000, 16000, 44100, 48000]),
    block_samples=st.integers(1200, 20000),
    segment=st.tuples(st.floats(0, 0.4), st.floats(0.5, 1)) | st.none(),
    rule=PER_CLIP_RULES,
    options=st.sampled_from([{}, {"timestamps": True, "frame_duration": 130, "hop_size": 37.5}]),
    n=12,
)
def test_a_streamed_file_equals_one_in_memory(
    model_of, tmp_path, stream_in_blocks, name, clip, kind, rate_hz, block_samples, segment, rule, options
):
    model, (suffix, subtype) = model_of(name, rule), kind
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, clip.samples, rate_hz, subtype=subtype)
    if segment is not None:
        duration_s = clip.n_samples / rate_hz
        options = options | {"start": segment[0] * duration_s, "end": segment[1] * duration_s}
    records = []
    for block in (0, block_samples):
        stream_in_blocks(block)
        records.append(embed_file(path, model, **options))
    in_memory, streamed = records
    # Where resampling leaves bands empty, their logarithm is that of the rounding of an FFT.
    expected = torch.from_numpy(in_memory.embedding)
    assert_close_to_peak(torch.from_numpy(streamed.embedding), expected, 5e-5)
    for column in ("start", "end", "time"):
        np.testing.assert_array_equal(getattr(streamed, column), getattr(in_memory, column))


@each_encoder
@property_of(
    clip=clips(min_samples=2000, max_samples=24000),
    block_samples=st.integers(1200, 9000),
    rule=PER_CLIP_RULES,
    n=8,
)
def test_a_clip_in_blocks_equals_the_whole(model_of, stream_in_blocks, name, clip, block_samples, rule):
    model = model_of(name, rule)
    samples, results = clip.samples, []
    for block in (0, block_samples):
        stream_in_blocks(block)
        results.append((scene(samples, model), get_timestamp_embeddings([samples], model, 150, 50)[0][0]))
    for whole, in_blocks in zip(*results):
        assert_close_to_peak(in_blocks, whole)


@property_of(
    lengths=st.lists(st.integers(1, 6000), min_size=1, max_size=5),
    bad=st.sets(st.integers(0, 4)),
    stream_s=st.sampled_from([0.0, 0.1, 60.0]),
    n=10,
)
def test_files_keep_their_order_and_bad_ones_cost_a_row(
    model_of, tmp_path, monkeypatch, lengths, bad, stream_s
):
    monkeypatch.setattr(decode_ahead, "STREAM_S", stream_s)
    model, paths, errors = model_of("default"), [], []
    for i, n_samples in enumerate(lengths):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, np.random.default_rng(i).uniform(-1, 1, n_samples), 16000)
        if i in bad:
            path.write_bytes(b"no audio")
        paths.append(path)
    records = list(embed_files(paths, model, on_error=lambda segment, error: errors.append(segment.file)))
    assert [record.file for record in records] == [str(p) for i, p in enumerate(paths) if i not in bad]
    assert errors == [str(p) for i, p in enumerate(paths) if i in bad]


# --- rates, levels, checkpoints ------------------------------------------------------------------


@each_encoder
@property_of(
    rate_hz=st.integers(8000, 192_000),
    seed=st.integers(0, 1000),
    seconds=st.floats(0.6, 1.2),
    rule=st.sampled_from(["clip", (-6.0, 5.0)]),
    n=6,
)
def test_resampled_equals_native(model_of, name, rate_hz, seed, seconds, rule):
    """Of a sound whose frequencies both rates hold, within a hundredth of the largest value.

    It fades in and out, since a resampler takes what lies outside of a clip for silence; and it is not quiet,
    since the resampler's own noise is at -120 dB.
    """
    rng = np.random.default_rng(seed)
    frequencies_hz, phases = rng.uniform(60, 3400, 40), rng.uniform(0, 2 * np.pi, 40)

    def sound(at_hz):
        time_s = np.arange(round(seconds * at_hz)) / at_hz
        fade = np.sin(np.pi * np.clip(time_s / seconds, 0, 1)) ** 2
        waves = np.sin(2 * np.pi * frequencies_hz[:, None] * time_s + phases[:, None])
        return (0.1 * fade * waves.sum(axis=0)).astype(np.float32)

    model = model_of(name, rule)
    resampled = embed_audio(sound(rate_hz), rate_hz, model)
    assert_close_to_peak(resampled, scene(sound(16000), model), 1e-2)


@each_encoder
@property_of(clip=noises(min_samples=1440), gain_db=st.floats(-26, 46), n=12)
def test_gain_changes_nothing_under_clip(model_of, name, clip, gain_db):
    """Of noise with a peak from 0.025 to 100, within a thousandth of the largest value.

    The logarithm takes mel power plus 1.2e-7, so that quiet clips (power in a band below about 1e-4) are
    closer to silence than a gain alone would make them; and so are the zeros after a clip that is too short.
    """
    model = model_of(name, "clip")
    assert clip.n_samples >= model.min_samples
    louder = clip.samples * np.float32(10 ** (gain_db / 20))
    assert_close_to_peak(scene(louder, model), scene(clip.samples, model), 1e-3)


@each_encoder
@property_of(
    clip=clips(),
    statistics=st.none() | st.tuples(st.floats(-100, 100), st.floats(1e-3, 100)),
    normalization=st.sampled_from(["auto", "clip", (1.0, 2.0)]),
    seed=st.integers(0, 100),
    n=5,
)
def test_a_loaded_checkpoint_equals_the_saved_model(
    model_of, tmp_path, name, clip, statistics, normalization, seed
):
    model = model_of(name, normalization)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand((), generator=generator) + 0.5)
    path = save_checkpoint(model, tmp_path / "a.safetensors", statistics=statistics)
    loaded = load_model(path)
    assert loaded.statistics == (statistics if statistics is None else tuple(statistics))
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    loaded.normalization = model.normalization
    model.statistics = loaded.statistics
    assert torch.equal(scene(clip.samples, loaded), scene(clip.samples, model))
    torch.save(model.encoder.state_dict(), tmp_path / "a.pth")
    bare = load_model(tmp_path / "a.pth")
    bare.normalization = model.resolved_normalization
    assert torch.equal(scene(clip.samples, bare), scene(clip.samples, model))
    model.statistics = None
