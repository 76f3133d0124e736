"""What is learned from: BYOL's loss and target, a teacher, features; the forward pass; the options."""

import copy
import json
import math
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sounds import tone, voice, write

from serab_byols.corpus.log_mel_statistics import log_mel_statistics
from serab_byols.corpus.segments import Segment
from serab_byols.encoders import ENCODERS, create_encoder
from serab_byols.errors import InvalidInputError, MissingExtraError
from serab_byols.pretrain.byol import Byol, Head, distance, relative_spread
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.contrastive import TEMPERATURE, Contrastive
from serab_byols.pretrain.crops import Clip
from serab_byols.pretrain.distillation import Distillation, Teacher
from serab_byols.pretrain.feature_table import opensmile_features
from serab_byols.pretrain.hybrid import LARGEST_DEVIATION, ClipFeatures, CropStatistics, Hybrid, load_features
from serab_byols.pretrain.network import PretrainNetwork
from serab_byols.pretrain.running_norm import RunningScale
from serab_byols.pretrain.training_forward import embed_with_steps

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def encoder_of(name="default", dropout=0.0):
    encoder = create_encoder(name, **({"d": 8} if name == "default" else {}))
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return encoder


def views(n=4, n_columns=32):
    return [torch.randn(n, 1, 64, n_columns) for _ in range(2)]


def test_the_contrastive_loss_is_the_cross_entropy_of_finding_the_other_view():
    contrastive, online = Contrastive(8), [torch.randn(3, 8) for _ in range(2)]
    projected = [contrastive.projector(embedding) for embedding in online]
    rows = torch.cat([view / view.norm(dim=1, keepdim=True) for view in projected])
    losses = []
    for i in range(6):
        others = torch.stack([rows[i] @ rows[j] for j in range(6) if j != i]).div(TEMPERATURE).exp()
        losses.append(-torch.log((rows[i] @ rows[(i + 3) % 6] / TEMPERATURE).exp() / others.sum()))
    torch.testing.assert_close(contrastive.loss(online), torch.stack(losses).mean())


def test_the_contrastive_loss_is_small_for_equal_views_of_crops_that_differ():
    contrastive, embedding = Contrastive(8), torch.randn(4, 8)
    same = torch.randn(1, 8).repeat(4, 1)
    assert contrastive.loss([same, same]).item() == pytest.approx(math.log(2 * 4 - 1), rel=1e-5)
    assert contrastive.loss([embedding, embedding]) < contrastive.loss([embedding, embedding.roll(1, 0)])


def test_the_contrastive_loss_is_in_float32_in_mixed_precision():
    contrastive, online = Contrastive(8), [torch.randn(16, 8) for _ in range(2)]
    contrastive.projector = torch.nn.Identity()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = contrastive.loss(online)
    torch.testing.assert_close(mixed, contrastive.loss(online), rtol=1e-6, atol=0)


def test_contrastive_learning_has_two_views_and_no_target_network():
    config = PretrainConfig(
        encoder_config={"d": 8}, byol_weight=0, contrastive_weight=2, crop_s=0.32, batch_size=4
    )
    network = PretrainNetwork(config, crops_per_epoch=4)
    assert config.n_views == 2
    assert network.byol is None
    losses, _ = network.losses(views(), torch.arange(4))
    assert set(losses) == {"contrastive"}
    losses["contrastive"].backward()
    assert all(parameter.grad is not None for parameter in network.encoder.parameters())


def test_the_loss_is_the_symmetric_squared_distance_of_directions():
    opposite = distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    torch.testing.assert_close(opposite, torch.tensor([2.0]))
    encoder = encoder_of().train()
    byol, (one, two) = Byol(encoder, 8), views()

    def direction(x):
        return x / x.norm(dim=1, keepdim=True)

    predictions = [direction(byol.predictor(byol.projector(encoder(x)))) for x in (one, two)]
    targets = [direction(byol.target_projector(byol.target_encoder(x))) for x in (one, two)]
    expected = (predictions[0] - targets[1]).square().sum(1) + (predictions[1] - targets[0]).square().sum(1)
    torch.testing.assert_close(byol.loss([encoder(one), encoder(two)], [one, two]), expected.mean())


def test_heads_have_the_published_shape():
    shapes = {name: tuple(value.shape) for name, value in Head(512).state_dict().items()}
    assert (shapes["lin1.weight"], shapes["lin2.weight"]) == ((4096, 512), (256, 4096))
    assert (shapes["bn.weight"], shapes["lin2.bias"]) == ((4096,), (256,))


def test_the_target_starts_as_a_copy_gets_no_gradient_and_stays_in_training_mode():
    encoder = encoder_of().train()
    byol, (one, two) = Byol(encoder, 8), views()
    for ours, theirs in zip(encoder.parameters(), byol.target_encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours is not theirs
    byol.loss([encoder(one), encoder(two)], [one, two]).backward()
    assert all(p.grad is None for p in byol.target_encoder.parameters())
    assert all(p.grad is None for p in byol.target_projector.parameters())
    assert all(p.grad is not None for p in (*byol.projector.parameters(), *byol.predictor.parameters()))
    assert int(byol.target_encoder.features[1].num_batches_tracked) == 2  # once for each view


def test_the_target_averages_parameters_and_not_buffers():
    encoder = encoder_of()
    byol = Byol(encoder, 8)
    before = copy.deepcopy(byol)
    with torch.no_grad():
        for value in (*encoder.parameters(), *encoder.buffers(), *byol.projector.parameters()):
            value += 1
    byol.update_target(encoder, decay=0.9)
    for name in ("target_encoder", "target_projector"):
        old, new = getattr(before, name), getattr(byol, name)
        for was, now in zip(old.parameters(), new.parameters()):
            torch.testing.assert_close(now, was + 0.1)
        for was, now in zip(old.buffers(), new.buffers()):
            assert torch.equal(was, now)


def test_the_spread_tells_collapse():
    assert relative_spread(torch.ones(5, 3)) == 0
    assert relative_spread(torch.eye(4)) == pytest.approx(math.sqrt(3 / 4))
    assert relative_spread(torch.zeros(5, 3)) == 0


@pytest.mark.parametrize("name", list(ENCODERS))
def test_training_forward_equals_the_plain_module(name):
    """Outputs, gradients and running statistics; AudioNTT's first stage is computed in another way."""
    plain, x = encoder_of(name).train(), torch.randn(6, 1, 64, 16) * 1.3 + 0.4
    fast = copy.deepcopy(plain)
    embedding, steps = embed_with_steps(fast, x)
    expected = plain(x)
    torch.testing.assert_close(embedding, expected, atol=2e-5, rtol=1e-4)
    if steps is not None:
        torch.testing.assert_close(steps.mean(1) + steps.amax(1), embedding)
    embedding.square().mean().backward()
    expected.square().mean().backward()
    largest = max(float(p.grad.abs().max()) for p in plain.parameters())
    for (key, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-4 * largest, rtol=0, msg=key)
    for (key, ours), theirs in zip(fast.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["default", "clstm"])
def test_a_teacher_answers_as_its_encoder_and_leaves_it_alone(name):
    encoder, x = encoder_of(name, dropout=0.3).train(), torch.randn(20, 1, 64, 16)
    encoder(x)  # so that running statistics are not those of a new module
    state = copy.deepcopy(encoder.state_dict())
    embedding, steps = Teacher(encoder)(x)
    assert encoder.training
    torch.testing.assert_close(encoder.state_dict(), state, rtol=0, atol=0)
    assert all(p.requires_grad for p in encoder.parameters())
    with torch.no_grad():
        torch.testing.assert_close(embedding, encoder.eval()(x), atol=1e-5, rtol=1e-4)
    assert (steps is None) == (name == "clstm")


def test_a_scale_is_the_standard_deviation_of_all_it_was_shown():
    scale, values = RunningScale(3), torch.randn(50, 4, 3) * torch.tensor([1.0, 5.0, 0.0]) + 2
    for part in values.split(10):
        learned = scale(part)
    expected = values.reshape(-1, 3).std(0, correction=0)
    expected[2] = 0.1 * expected.mean()  # what never varies must not count for more than the rest
    torch.testing.assert_close(learned, expected, atol=1e-5, rtol=1e-4)


def test_a_student_is_compared_with_its_teacher():
    """Equal, it has no loss; constant, about one; of another width, it has a layer of its own."""
    config = PretrainConfig(byol_weight=0, teacher_weight=1, teacher_time_step_weight=1)
    teacher, x = encoder_of().eval(), torch.randn(64, 1, 64, 32)
    embedding, steps = embed_with_steps(teacher, x)
    losses = Distillation(teacher, encoder_of(), config).losses(x, embedding, steps)
    assert set(losses) == {"teacher", "teacher_time_steps"}
    assert all(loss.item() < 1e-8 for loss in losses.values())
    constant = embedding.mean(0).expand_as(embedding)
    loss = Distillation(teacher, encoder_of(), config).losses(x, constant, None)["teacher"]
    varies = embedding.std(0) > 1e-4  # of random weights, some numbers are always zero
    assert loss.item() == pytest.approx(varies.float().mean().item(), rel=0.01)
    student = create_encoder("default", d=5)
    distillation = Distillation(teacher, student, config)
    losses = distillation.losses(x, *embed_with_steps(student, x))
    assert set(losses) == {"teacher"}
    losses["teacher"].backward()
    assert distillation.adapter.weight.grad.shape == (8, 5)
    assert all(not name.startswith("_teacher") for name in distillation.state_dict())


def test_features_are_standardised_and_useless_ones_left_out():
    features = np.array([[1.0, 7, 5, np.nan], [2, 7, np.nan, np.nan], [6, 7, 9, np.inf]])
    values = ClipFeatures(features).values
    np.testing.assert_allclose(values[:, 0], (features[:, 0] - 3) / np.std([1, 2, 6]), rtol=1e-6)
    np.testing.assert_allclose(values[:, 1:], [[-1], [np.nan], [1]], rtol=1e-6)
    assert ClipFeatures(np.array([[1e6]] + 999 * [[0.0]])).values.max() == LARGEST_DEVIATION
    for constant in (np.ones((3, 2)), np.full((3, 2), np.nan)):
        with pytest.raises(InvalidInputError, match="none that varies"):
            ClipFeatures(constant)


def test_the_hybrid_loss_is_the_mean_squared_error_of_known_targets():
    hybrid = Hybrid(ClipFeatures(np.array([[1.0, 2], [3, np.nan], [5, 4]])), 8)
    online, clips = [torch.randn(3, 8), torch.randn(3, 8)], torch.tensor([2, 1, 0])
    targets = hybrid.features.values[clips]
    known = targets.isfinite()
    hybrid.eval()
    expected = np.mean([F.mse_loss(hybrid.head(y)[known], targets[known]).item() for y in online])
    assert hybrid.loss(online, clips).item() == pytest.approx(expected)
    hybrid.train().loss(online, clips).backward()
    assert all(p.grad.isfinite().all() for p in hybrid.head.parameters())


def test_log_mel_statistics_equal_their_definitions():
    fft = pytest.importorskip("scipy.fft")
    for n_columns in (1, 2, 31, 96):
        log_mel = torch.randn(2, 64, n_columns, dtype=torch.float64) * 4 - 6
        for one, actual in zip(log_mel.numpy(), log_mel_statistics(log_mel)):
            rows = np.concatenate([one, fft.dct(one, axis=0, norm="ortho")[:20]])
            changes = np.diff(rows) if n_columns > 1 else np.zeros_like(rows)
            expected = [rows.mean(1), rows.std(1), *np.quantile(rows, (0, 0.5, 1), axis=1)]
            expected += [np.abs(changes).mean(1), changes.std(1)]
            np.testing.assert_allclose(actual, np.concatenate(expected), rtol=1e-10, atol=1e-10)


def test_statistics_of_crops_are_standardised():
    """Each crop has its own, whichever clip it is from."""
    log_mel = 3 * torch.randn(64, 64, 31) + torch.randn(64, 1, 1)
    targets = CropStatistics()(torch.zeros(64, dtype=torch.int64), log_mel)
    torch.testing.assert_close(targets.mean(0), torch.zeros(588), atol=1e-4, rtol=0)
    assert targets.abs().max() <= LARGEST_DEVIATION
    mean = log_mel.mean(2)  # the first 64 of the statistics
    expected = (mean - mean.mean(0)) / mean.std(0, correction=0)
    torch.testing.assert_close(targets[:, :64], expected, atol=1e-3, rtol=1e-3)


def clips_named(*names):
    return [Clip(Segment(name, Path(name)), 0.0, 1.0) for name in names]


def test_a_table_is_matched_by_name(tmp_path):
    """As given, or relative to the table. A name that looks like a number stays a name."""
    text = "file,pitch,level\n007,200,1\na.wav,100,2\nc.wav,,3\n,150,nan\n"
    (tmp_path / "t.csv").write_text(text)
    clips, errors = clips_named("a.wav", "007", str(tmp_path / "c.wav"), "d.wav"), []
    table = load_features(str(tmp_path / "t.csv"), clips, lambda name, _: errors.append(name))
    np.testing.assert_allclose(table.values[:, 0], [-1, 1, np.nan, np.nan])
    assert table.values[2, 1] > table.values[0, 1] > table.values[1, 1]
    assert errors == ["d.wav"]


STARTS_S = (0.0, 1.5)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "indexed.parquet"])
@pytest.mark.parametrize("kind", [float, lambda start_s: timedelta(seconds=start_s)])
def test_a_table_of_segments_is_matched_by_start(tmp_path, kind, suffix):
    """In seconds, or as openSMILE's tables have it: timedeltas, perhaps in an index."""
    pandas = pytest.importorskip("pandas")
    columns = {"file": "a.wav", "start": list(map(kind, STARTS_S)), "end": kind(9.0), "pitch": [100, 200]}
    frame, path = pandas.DataFrame(columns), tmp_path / f"t.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    else:
        (frame if suffix == "parquet" else frame.set_index(["file", "start", "end"])).to_parquet(path)
    clips = [Clip(Segment("a.wav", Path("a.wav"), start_s, None), 0.0, 1.0) for start_s in (1.5, None)]
    np.testing.assert_allclose(load_features(str(path), clips, print).values, [[1], [-1]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,pitch\na.wav,1\n", "needs a column named 'file' or 'path'"),
        ("file\na.wav\n", "no features"),
        ("file,pitch\n", "no rows"),
        ("file,pitch\na.wav,high\n", "no number"),
        ("file,start,pitch\na.wav,soon,1\n", "no number"),
        ("file,pitch\na.wav,1,2\n", "more columns than its header"),
        ("file,pitch\na.wav,1\nb.wav,1,2\n", "cannot be read"),
        ("file,pitch\nother.wav,1\n", "no row for any clip"),
        ("", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, text, message):
    for path in (tmp_path / "t.csv", tmp_path / "t.parquet"):
        if text is not None:
            path.write_text(text)
        with pytest.raises(InvalidInputError, match=message if path.suffix == ".csv" else "cannot be read"):
            load_features(str(path), clips_named("a.wav", "b.wav"), print)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "vit"}, "unknown encoder 'vit'"),
        ({"lr_schedule": "linear"}, "unknown lr_schedule"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"lr": float("nan")}, "lr must be"),
        ({"ema_decay": 1.5}, "ema_decay must be at least 0 and at most 1"),
        ({"seed": 2**63}, "seed must be at least 0 and at most 9.2.*, got 9223372036854775808"),
        ({"steps": 1.5}, "steps must be a whole number, got 1.5"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"steps": 10**400}, "steps must be at least 1 and at most 9.2.*, got 1000"),
        ({"batch_size": 10**9}, "batch_size must be at least 2 and at most 1e"),
        ({"crop_s": 1e9}, "crop_s must be above 0 and at most 60, got 1000000000.0"),
        ({"crop_s": "1"}, "crop_s must be a number, got '1'"),
        ({"mixup_memory": 10**9}, "would take 24576 GB"),
        ({"crop_virtual_time": 1e9}, "crop_virtual_time must be at least 1 and at most 100"),
        ({"crop_scale": (0.5, math.nan)}, "crop_scale must be above 0 and at most 100, got nan"),
        ({"crop_scale": (1, 2, 3)}, "two numbers"),
        ({"crop_scale": 1.0}, "two numbers"),
        ({"statistics": "clip"}, "two numbers"),
        ({"statistics": (math.nan, 1)}, "finite mean"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"post_norm": "no"}, "post_norm must be True or False"),
        ({"encoder": ["cvt"]}, "unknown encoder"),
        ({"encoder_config": 512}, "encoder_config must be a dict"),
        ({"encoder_config": {"d": math.nan}}, "what JSON can hold"),
        ({"crop_scale": (1.5, 0.6)}, "crop_scale"),
        ({"crop_s": 0.05}, "too short for the encoder 'default'"),
        ({"byol_weight": 0}, "nothing to learn"),
        ({"statistics": (0, -1)}, "positive std"),
        ({"mixup_ratio": 1.0}, "mixup_ratio"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        PretrainConfig(**change)


NUMBERS = [name for name, value in asdict(PretrainConfig()).items() if type(value) in (int, float)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1", 1e39])
def test_every_number_is_finite_and_a_number(value):
    assert len(NUMBERS) == 21
    for name in NUMBERS:
        with pytest.raises(InvalidInputError, match=f"{name} must be"):
            PretrainConfig(**{name: value})


def test_numbers_of_numpy_become_python_s():
    """Which training checkpoints and JSON can hold."""
    scale, statistics = (np.float64(0.5), 1), np.array([-6.0, 5.0])
    config = PretrainConfig(steps=np.int64(3), lr=np.float32(0.5), crop_scale=scale, statistics=statistics)
    assert {type(value) for value in (config.lr, *config.crop_scale, *config.statistics)} == {float}
    assert type(config.steps) is int


def test_a_configuration_survives_json():
    config = PretrainConfig(encoder_config={"d": 4}, statistics=(-6.0, 5.0), crop_scale=(0.5, 1.0))
    assert PretrainConfig(**json.loads(json.dumps(asdict(config)))) == config


def test_the_defaults_are_the_published_recipe():
    c = PretrainConfig()
    assert (c.lr, c.weight_decay, c.batch_size, c.ema_decay, c.seed) == (3e-4, 0.01, 256, 0.99, 42)
    assert (c.n_samples, c.n_columns, c.mixup_ratio, c.mixup_memory) == (15200, 96, 0.4, 2048)
    assert (c.crop_scale, c.crop_virtual_time, c.fader_gain, c.post_norm) == ((0.6, 1.5), 1.5, 0.0, True)
    assert {c.lr_at(step) for step in (0, 50_000, 99_999)} == {3e-4}
    assert {c.ema_decay_at(step) for step in (0, 99_999)} == {0.99}


def test_schedules_go_where_they_say():
    c = PretrainConfig(lr=1, steps=1000, lr_schedule="cosine", warmup_steps=10, ema_schedule="cosine")
    assert [c.lr_at(0), c.lr_at(4), c.lr_at(500)] == pytest.approx([0.1, 0.5, 0.5], abs=1e-3)
    assert c.lr_at(999) < 1e-5
    assert [c.ema_decay_at(step) for step in (0, 500, 1000)] == pytest.approx([0.99, 0.995, 1])


def test_the_seed_alone_decides_the_first_weights():
    config = PretrainConfig(encoder_config={"d": 4}, crop_s=0.3, batch_size=2)
    first = PretrainNetwork(config, crops_per_epoch=1).encoder.fc[0].weight
    torch.rand(3)
    assert torch.equal(first, PretrainNetwork(config, crops_per_epoch=1).encoder.fc[0].weight)


@pytest.mark.parametrize("weight", ["hybrid_weight", "teacher_weight", "teacher_time_step_weight"])
def test_a_weight_without_a_source_is_refused(weight):
    with pytest.raises(InvalidInputError, match=f"{weight} is not 0"):
        PretrainNetwork(PretrainConfig(encoder_config={"d": 4}, **{weight: 1.0}), crops_per_epoch=1)


def test_opensmile_gives_the_compare_functionals(tmp_path):
    pytest.importorskip("opensmile", reason="the extra 'hybrid' is not installed")
    paths = [write(tmp_path / f"{seed}.wav", voice(seed, seconds=1)) for seed in range(3)]
    table = load_features("compare2016", clips_named(*map(str, paths)), print)
    assert 5000 < table.n_features <= 6373
    assert table.values.shape[0] == 3
    torch.testing.assert_close(table.values.nanmean(0), torch.zeros(table.n_features), atol=1e-3, rtol=0)


def test_samples_beyond_full_scale_are_clipped_for_opensmile(tmp_path):
    """Its 16-bit integers would wrap: resampled music and speech overshoot, and 1.0 itself is too much."""
    pytest.importorskip("opensmile", reason="the extra 'hybrid' is not installed")
    sine = tone(220, 1.0, 16000) / np.abs(tone(220, 1.0, 16000)).max()
    sounds = {"loud": 1.05 * sine, "clipped": np.clip(1.05 * sine, -1, 32767 / 32768), "one": sine}
    paths = [write(tmp_path / f"{name}.wav", x, subtype="FLOAT") for name, x in sounds.items()]
    loud, clipped, one = opensmile_features(clips_named(*map(str, paths)), print)
    np.testing.assert_array_equal(loud, clipped)
    quieter = write(tmp_path / "quieter.wav", sine * (32767 / 32768), subtype="FLOAT")
    (expected,) = opensmile_features(clips_named(str(quieter)), print)
    assert np.mean(np.abs(one - expected) > 0.5 * np.abs(expected)) < 0.05


def test_a_clip_too_short_for_opensmile_is_left_out_by_name(tmp_path):
    pytest.importorskip("opensmile", reason="the extra 'hybrid' is not installed")
    long, short = (write(tmp_path / f"{s}.wav", voice(0, seconds=s)) for s in (0.5, 0.01))
    errors = {}
    clips = [Clip(Segment(str(path), path), 0.0, s) for path, s in ((long, 0.5), (short, 0.01))]
    features = opensmile_features(clips, errors.__setitem__)
    np.testing.assert_array_equal(np.isnan(features).all(axis=1), [False, True])
    assert errors == {str(short): f"{short}: too short for the ComParE 2016 features"}


@pytest.mark.parametrize(
    ("source", "package", "extra"),
    [
        ("compare2016", "opensmile", "hybrid"),
        ("t.csv", "pandas", "pretrain"),
        ("t.parquet", "pyarrow", "parquet"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, source, package, extra):
    monkeypatch.chdir(tmp_path)
    Path(source).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*pip install 'serab-byols\[{extra}\]'"):
        load_features(source, clips_named("a.wav"), print)
