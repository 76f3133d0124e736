"""The HEAR functions: parity, the common API's rules, and embeddings that depend on their clip alone."""

import numpy as np
import pytest
import torch
from parity_data import (
    MANIFEST,
    PUBLISHED_512,
    assert_close_to_peak,
    recipe_model,
    reference,
    speech,
    waveform,
)

import serab_byols
from serab_byols import get_scene_embeddings, get_timestamp_embeddings
from serab_byols.encoders import ENCODERS
from serab_byols.errors import InvalidInputError

encoders = pytest.mark.parametrize("name", list(ENCODERS))
CLIP = speech(1, 6000)[None]


@pytest.fixture
def published():
    if not PUBLISHED_512.is_file():
        pytest.skip(f"the published weights {PUBLISHED_512.name} are not here; they may not be redistributed")
    return serab_byols.load_model(PUBLISHED_512)


def clips_of(case):
    return [waveform(name) for name in MANIFEST["api"][case]["clips"]]


# --- parity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["scene1", "scene3"])
@pytest.mark.parametrize(
    ("rule", "suffix"), [("batch", "upstream"), ("hear2021", "upstream"), ("clip", "per_clip")]
)
def test_scenes_of_the_published_weights(published, case, rule, suffix):
    published.normalization = rule
    expected = torch.from_numpy(reference("api")[f"{case}__{suffix}"])
    atol = 1e-4 if case == "scene1" else 1e-2  # scene3 has a chirp, whose floor is float32 leakage
    torch.testing.assert_close(get_scene_embeddings(clips_of(case), published), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("variant", ["resnetish34", "clstm", "cvt"])
def test_scenes_of_the_recipe_weights(variant):
    case = f"scene3__upstream__{variant}_recipe"
    embeddings = get_scene_embeddings(clips_of(case), recipe_model(variant, normalization="batch"))
    torch.testing.assert_close(embeddings, torch.from_numpy(reference("api")[case]), rtol=0, atol=1e-2)


@pytest.mark.parametrize("case", ["ts_1000_50", "ts_380_25"])
def test_timestamps_of_the_published_weights(published, case):
    arrays, spec, clips = reference("api"), MANIFEST["api"][case], torch.stack(clips_of(case))

    def assert_embeddings(clips, rule, expected, atol=2e-4):
        published.normalization = rule
        actual, times = get_timestamp_embeddings(clips, published, spec["frame_ms"], spec["hop_ms"])
        torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=0, atol=atol)
        np.testing.assert_array_equal(times, arrays[f"{case}__timestamps"][: len(clips)])

    upstream = arrays[f"{case}__upstream"]
    assert_embeddings(clips, "hear2021", upstream, 1e-5 * upstream.max())
    assert_embeddings(clips, "batch", arrays[f"{case}__correct"])
    for i, statistics in enumerate(arrays[f"{case}__stats_per_clip"].tolist()):
        assert_embeddings(clips[i : i + 1], statistics, arrays[f"{case}__per_clip"][i : i + 1])


@encoders
@pytest.mark.parametrize(
    ("n_samples", "frame_ms", "hop_ms"),
    [(5000, 1000, 50), (4000, 380, 25), (5001, 160, 33.3), (2500, 200.03, 10.03125), (700, 20, 20)],
)
def test_timestamps_equal_cutting_every_frame_first(narrow, name, n_samples, frame_ms, hop_ms):
    """Against the plain modules: cut frames, log-mel of each, normalise, encode."""
    model, clip = narrow(name), speech(5, 12345)[:n_samples]
    n_frame = round(frame_ms * 16)
    padded = torch.nn.functional.pad(clip, (n_frame // 2, n_frame - n_frame // 2))
    with torch.no_grad():
        log_mel = model.frontend(model.pad_short(clip[None]))
        mean, std = log_mel.mean(), log_mel.std()
        expected, k = [], 0
        while (start := round(k * hop_ms * 16)) <= len(clip):
            frame = model.pad_short(padded[start : start + n_frame][None])
            expected.append(model.encoder(((model.frontend(frame) - mean) / std)[:, None])[0])
            k += 1
    embeddings, timestamps = get_timestamp_embeddings(clip[None], model, frame_ms, hop_ms)
    assert timestamps.shape == (1, k)
    assert_close_to_peak(embeddings[0], torch.stack(expected))


# --- an embedding is a function of its clip alone ------------------------------------------------


@pytest.mark.parametrize("variant", ["default512", "resnetish34", "clstm", "cvt"])
@pytest.mark.parametrize("normalization", ["clip", (-6.0, 5.0)])
def test_an_embedding_is_the_same_alone_in_a_batch_and_among_other_lengths(variant, normalization):
    """With the published shapes: numeric libraries choose algorithms by the size of a batch."""
    model = recipe_model(variant, normalization=normalization)
    clips = torch.stack([speech(seed, 3000) * (1 + seed) / 4 for seed in range(8)])
    clips[5] = 0
    batch = get_scene_embeddings(clips, model)
    for i in (0, 5, 7):
        assert_close_to_peak(get_scene_embeddings(clips[i : i + 1], model)[0], batch[i])
    order = [3, 7, 0, 5, 2, 6, 1, 4]
    assert_close_to_peak(get_scene_embeddings(clips[order], model), batch[order])
    ragged = [speech(100, 2000), clips[0], speech(101, 4000), clips[7], speech(102, 700)]
    mixed = get_scene_embeddings(ragged, model)
    assert_close_to_peak(mixed[1], batch[0])
    assert_close_to_peak(mixed[3], batch[7])


@encoders
def test_an_embedding_is_the_same_in_a_call_of_several_batches(narrow, name):
    model = narrow(name)
    clips = torch.rand(42, 32000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    embeddings = get_scene_embeddings(clips, model)
    for i in (0, 29, 30, 41):  # a batch holds 30
        assert_close_to_peak(get_scene_embeddings(clips[i : i + 1], model)[0], embeddings[i])


@pytest.mark.parametrize("variant", ["default512", "resnetish34", "clstm", "cvt"])
def test_threads_do_not_change_an_embedding(variant):
    model, clips = recipe_model(variant), [speech(1, 5000), speech(2, 5000), waveform("chirp_1s")[:5000]]
    before = torch.get_num_threads()
    results = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            frames, _ = get_timestamp_embeddings(clips[0][None], model, 200, 50)
            results.append([*get_scene_embeddings(clips, model), frames])
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results):
        assert_close_to_peak(two, one)


def test_timestamps_of_a_clip_do_not_depend_on_its_neighbours(narrow):
    model = narrow()
    clips = torch.stack([speech(1, 9000), torch.zeros(9000), speech(3, 9000) * 2])
    together, times = get_timestamp_embeddings(clips, model)
    for i in range(3):
        alone, alone_times = get_timestamp_embeddings(clips[i : i + 1], model)
        assert_close_to_peak(together[i], alone[0])
        assert torch.equal(times[i], alone_times[0])


def test_batch_rule_does_depend_on_the_neighbours(narrow):
    """Unlike the other rules, which shows that the tests above can fail."""
    model = narrow(normalization="batch")
    clips = torch.stack([speech(1, 9000), torch.zeros(9000)])
    alone, together = get_scene_embeddings(clips[:1], model)[0], get_scene_embeddings(clips, model)[0]
    assert (alone - together).abs().max() > 1e-2 * alone.abs().max()


# --- HEAR's own rules ----------------------------------------------------------------------------


@encoders
@pytest.mark.parametrize("duration_s", [1.07, 1.98, 2.74, 4.0])
def test_shapes_types_and_timestamps(narrow, name, duration_s):
    model = narrow(name)
    n_samples = int(duration_s * model.sample_rate)
    audio = torch.rand(2, n_samples, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scenes = get_scene_embeddings(audio, model)
    assert scenes.shape == (2, model.scene_embedding_size)
    embeddings, timestamps = get_timestamp_embeddings(audio, model)
    assert embeddings.shape == (*timestamps.shape, model.timestamp_embedding_size)
    assert len(timestamps) == 2
    assert scenes.dtype == embeddings.dtype == timestamps.dtype == torch.float32
    assert embeddings.isfinite().all()
    duration_ms = n_samples / 16
    assert timestamps.min() >= 0
    assert timestamps.max() <= duration_ms
    assert timestamps[0, 0] <= 50
    assert timestamps[0, -1] > duration_ms - 50 - 1e-3
    steps = timestamps.diff(dim=1)
    assert steps.mean() <= 50
    assert (steps - steps.mean()).abs().max() < 1e-3


@encoders
def test_the_model_is_left_as_it_was(narrow, name):
    model = narrow(name).train()
    next(model.encoder.parameters()).requires_grad_(False)
    modes = [module.training for module in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scenes = get_scene_embeddings(CLIP, model)
    frames, _ = get_timestamp_embeddings(CLIP, model, 300, 100)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    # Computed as in eval mode all the same: no dropout, no batch statistics.
    model.eval()
    assert_close_to_peak(scenes, get_scene_embeddings(CLIP, model))
    assert_close_to_peak(frames, get_timestamp_embeddings(CLIP, model, 300, 100)[0])


def test_a_probe_can_be_trained_on_the_results(narrow):
    model = narrow()
    with torch.inference_mode():
        embeddings = get_scene_embeddings(CLIP, model)
        frames, _ = get_timestamp_embeddings(CLIP, model)
    for result in (embeddings, frames):
        assert not result.is_inference()
        assert not result.requires_grad
    probe = torch.nn.Linear(8, 2)
    probe(embeddings).sum().backward()
    assert probe.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 3e-2)])
def test_results_are_float32_whatever_the_weights_are(dtype, tolerance):
    model = recipe_model("default512")
    expected = get_scene_embeddings(CLIP, model)
    model.to(dtype)
    embeddings = get_scene_embeddings(CLIP, model)
    assert embeddings.dtype == torch.float32
    assert model.dtype == dtype
    assert_close_to_peak(embeddings, expected, tolerance)


# --- what may come in ----------------------------------------------------------------------------


def test_all_types_of_audio_give_the_same_embeddings(narrow):
    model, clips = narrow(), torch.stack([speech(1, 6000), speech(2, 6000)])
    read_only = clips.numpy().copy()
    read_only.flags.writeable = False
    scenes, (frames, _) = get_scene_embeddings(clips, model), get_timestamp_embeddings(clips, model)
    for audio in (
        read_only,
        clips.numpy(),
        list(clips),
        tuple(clips.numpy()),
        [clips[0], clips[1].numpy()],
        clips.double(),
        clips.numpy().astype(np.float64),
        clips.T.contiguous().T,
        clips.clone().requires_grad_(),
    ):
        assert_close_to_peak(get_scene_embeddings(audio, model), scenes)
        assert_close_to_peak(get_timestamp_embeddings(audio, model)[0], frames)


def test_values_beyond_one_are_not_clipped(narrow):
    model, clip = narrow(normalization=(-6.0, 5.0)), CLIP * 20
    assert clip.abs().max() > 2
    with torch.no_grad():
        expected = model(clip)
    assert_close_to_peak(get_scene_embeddings(clip, model), expected)
    clipped = get_scene_embeddings(clip.clamp(-1, 1), model)
    assert (clipped - expected).abs().max() > 1e-2 * expected.abs().max()


def test_lists_of_different_lengths_give_a_tensor_a_clip(narrow):
    model, clips = narrow(), [speech(1, 8000), speech(2, 4000), speech(3, 8001)]
    embeddings, timestamps = get_timestamp_embeddings(clips, model)
    assert isinstance(embeddings, list)
    assert isinstance(timestamps, list)
    assert [tuple(e.shape) for e in embeddings] == [(11, 8), (6, 8), (11, 8)]
    assert [tuple(t.shape) for t in timestamps] == [(11,), (6,), (11,)]
    assert_close_to_peak(embeddings[1], get_timestamp_embeddings(clips[1][None], model)[0][0])


def test_no_clips_give_no_embeddings(narrow):
    model = narrow()
    assert get_scene_embeddings([], model).shape == (0, 8)
    assert get_scene_embeddings(torch.zeros(0, 16000), model).shape == (0, 8)
    embeddings, timestamps = get_timestamp_embeddings(torch.zeros(0, 16000), model)
    assert embeddings.shape == (0, 21, 8)
    assert timestamps.shape == (0, 21)
    assert get_timestamp_embeddings([], model) == ([], [])


@encoders
@pytest.mark.parametrize("normalization", ["clip", (-6.0, 5.0)])
def test_short_clips_are_padded_with_zeros(narrow, name, normalization):
    model = narrow(name, normalization=normalization)
    for n_samples in (1, 512, 513, 1119, 1439):
        clip = speech(9, 2000)[None, :n_samples]
        appended = torch.nn.functional.pad(clip, (0, max(0, model.min_samples - n_samples)))
        expected = get_scene_embeddings(appended, model)
        assert expected.isfinite().all()
        assert torch.equal(get_scene_embeddings(clip, model), expected)
        assert_close_to_peak(model(clip).detach(), expected)
        frames, timestamps = get_timestamp_embeddings(clip, model)
        assert frames.shape[1] == timestamps.shape[1] == 1 + n_samples // 800
        assert frames.isfinite().all()


@encoders
def test_silence_has_a_finite_embedding(narrow, name):
    model, silence = narrow(name), torch.zeros(1, 6000)
    for model.normalization in ("clip", "batch", "hear2021"):
        assert get_scene_embeddings(silence, model).isfinite().all()
        embeddings, _ = get_timestamp_embeddings(silence, model, 300, 100)
        assert embeddings.isfinite().all()
        if model.normalization != "hear2021":  # whose division by the number of frames is part of it
            assert embeddings.abs().max() < 1e3


@pytest.mark.parametrize("function", [get_scene_embeddings, get_timestamp_embeddings])
@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(16000), r"shape \(16000,\); for one clip pass audio\[None"),
        (torch.zeros(1, 1, 16000), r"\(1, 1, 16000\)"),
        (torch.zeros(1, 0), "empty"),
        ([torch.zeros(100), torch.zeros(0)], "clip 1 is empty"),
        ([torch.zeros(1, 100)], r"clip 0 must have shape \(n_samples,\), got \(1, 100\)"),
        (torch.zeros(1, 16000, dtype=torch.int16), "torch.int16.*32768"),
        (np.zeros((1, 16000), np.int16), "int16.*32768"),
        (np.zeros((1, 16000), complex), "complex"),
        ("clip.wav", "got str"),
        (None, "got NoneType"),
        ([torch.zeros(100), torch.full((100,), torch.nan)], "clip 1 .*NaN"),
    ],
)
def test_impossible_audio_is_refused_by_name(tiny_model, function, audio, message):
    with pytest.raises(InvalidInputError, match=message):
        function(audio, tiny_model)
