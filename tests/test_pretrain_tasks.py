"""What is learnt from: BYOL's loss and target, a teacher, a table of features; and the fast first stage."""

import copy
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sounds import voice, write

from serab_byols import create_model
from serab_byols.corpus.log_mel_statistics import log_mel_statistics
from serab_byols.corpus.segments import Segment
from serab_byols.encoders import ENCODERS, create_encoder
from serab_byols.errors import InvalidInputError, MissingExtraError
from serab_byols.pretrain.byol import Byol, Head, distance, relative_spread
from serab_byols.pretrain.config import PretrainConfig
from serab_byols.pretrain.corpus import Clip
from serab_byols.pretrain.frames import Teacher, embedding_and_frames
from serab_byols.pretrain.hybrid import (
    LARGEST_DEVIATION,
    CropStatistics,
    FeatureTable,
    Hybrid,
    load_features,
)
from serab_byols.pretrain.teacher import Distillation, Scale

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny(name: str = "default"):
    return create_encoder(name, **({"d": 8} if name == "default" else {}))


def views(n: int = 4, n_frames: int = 32) -> list[torch.Tensor]:
    return [torch.randn(n, 1, 64, n_frames) for _ in range(2)]


def test_the_loss_is_the_symmetric_squared_distance_of_directions():
    torch.testing.assert_close(
        distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]])), torch.tensor([2.0])
    )
    encoder = tiny().train()
    byol, (one, two) = Byol(encoder, 8), views()
    loss = byol.loss([encoder(one), encoder(two)], [one, two])

    def direction(x):
        return x / x.norm(dim=1, keepdim=True)

    encoder.fc[2].p = byol.target_encoder.fc[2].p = 0.0  # dropout would differ from call to call
    predictions = [direction(byol.predictor(byol.projector(encoder(x)))) for x in (one, two)]
    targets = [direction(byol.target_projector(byol.target_encoder(x))) for x in (one, two)]
    expected = (predictions[0] - targets[1]).square().sum(1) + (predictions[1] - targets[0]).square().sum(1)
    again = byol.loss([encoder(one), encoder(two)], [one, two])
    torch.testing.assert_close(again, expected.mean())
    assert 0 <= loss.item() <= 8


def test_heads_have_the_published_shape():
    shapes = {name: tuple(value.shape) for name, value in Head(512).state_dict().items()}
    assert shapes["lin1.weight"] == (4096, 512)
    assert shapes["lin2.weight"] == (256, 4096)
    assert shapes["lin2.bias"] == (256,)
    assert shapes["bn.weight"] == (4096,)


def test_the_target_starts_as_a_copy_gets_no_gradient_and_stays_in_training_mode():
    encoder = tiny().train()
    byol, (one, two) = Byol(encoder, 8), views()
    for ours, theirs in zip(encoder.parameters(), byol.target_encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours is not theirs
    byol.loss([encoder(one), encoder(two)], [one, two]).backward()
    assert all(p.grad is None for p in byol.target_encoder.parameters())
    assert all(p.grad is None for p in byol.target_projector.parameters())
    assert all(p.grad is not None for p in (*byol.projector.parameters(), *byol.predictor.parameters()))
    assert int(byol.target_encoder.features[1].num_batches_tracked) == 2  # once a view, apart


def test_the_target_follows_parameters_and_not_buffers():
    encoder = tiny()
    byol = Byol(encoder, 8)
    before = copy.deepcopy(byol)
    with torch.no_grad():
        for value in (*encoder.parameters(), *encoder.buffers(), *byol.projector.parameters()):
            value += 1
    byol.follow(encoder, decay=0.9)
    for old, new in zip(before.target_encoder.parameters(), byol.target_encoder.parameters()):
        torch.testing.assert_close(new, old + 0.1)
    for old, new in zip(before.target_projector.parameters(), byol.target_projector.parameters()):
        torch.testing.assert_close(new, old + 0.1)
    for old, new in zip(before.target_encoder.buffers(), byol.target_encoder.buffers()):
        assert torch.equal(old, new)


def test_the_spread_tells_collapse():
    assert relative_spread(torch.ones(5, 3)) == 0
    assert relative_spread(torch.eye(4)) == pytest.approx(math.sqrt(3 / 4))
    assert relative_spread(torch.zeros(5, 3)) == 0


@pytest.mark.parametrize("name", list(ENCODERS))
def test_training_forward_equals_the_plain_module(name):
    """Outputs, gradients and running statistics; AudioNTT's first stage is done another way."""
    plain, x = tiny(name).train(), torch.randn(6, 1, 64, 32) * 1.3 + 0.4
    for module in plain.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    fast = copy.deepcopy(plain)
    embedding, frames = embedding_and_frames(fast, x)
    expected = plain(x)
    torch.testing.assert_close(embedding, expected, atol=2e-5, rtol=1e-4)
    if frames is not None:
        torch.testing.assert_close(frames.mean(1) + frames.amax(1), embedding)
    embedding.square().mean().backward()
    expected.square().mean().backward()
    largest = max(float(p.grad.abs().max()) for p in plain.parameters())
    for (key, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-4 * largest, rtol=0, msg=key)
    for (key, ours), theirs in zip(fast.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(ours, theirs[1], atol=1e-5, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["default", "clstm"])
def test_a_teacher_answers_as_its_encoder_and_leaves_it_alone(name):
    encoder, x = tiny(name).train(), torch.randn(20, 1, 64, 32)
    encoder(x)  # so that running statistics are not those of a new module
    state = copy.deepcopy(encoder.state_dict())
    embedding, frames = Teacher(encoder)(x)
    assert encoder.training
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in state.items())
    assert all(p.requires_grad for p in encoder.parameters())
    with torch.no_grad():
        expected = encoder.eval()(x)
    torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-4)
    assert (frames is None) == (name == "clstm")


def test_a_scale_is_the_spread_of_all_it_was_shown():
    scale, values = Scale(3), torch.randn(50, 4, 3) * torch.tensor([1.0, 5.0, 0.0]) + 2
    for part in values.split(10):
        learnt = scale(part)
    expected = values.reshape(-1, 3).std(0, correction=0)
    expected[2] = 0.1 * expected.mean()  # what never varies must not count for more than the rest
    torch.testing.assert_close(learnt, expected, atol=1e-5, rtol=1e-4)


CONFIG = PretrainConfig(byol_weight=0, teacher_weight=1, teacher_frame_weight=1)


def test_a_student_that_equals_its_teacher_has_nothing_to_lose():
    teacher, x = tiny().eval(), torch.randn(8, 1, 64, 32)
    losses = Distillation(teacher, tiny(), CONFIG).losses(x, *embedding_and_frames(teacher, x))
    assert set(losses) == {"teacher", "teacher_frames"}
    assert all(loss.item() < 1e-8 for loss in losses.values())


def test_a_constant_student_loses_about_one():
    teacher, x = tiny().eval(), torch.randn(64, 1, 64, 32)
    embedding = teacher(x)
    constant = embedding.mean(0).expand_as(embedding)
    loss = Distillation(teacher, tiny(), CONFIG).losses(x, constant, None)["teacher"]
    varies = embedding.std(0) > 1e-4  # of random weights, some numbers are always zero
    assert loss.item() == pytest.approx(varies.float().mean().item(), rel=0.01)


def test_a_student_of_another_width_learns_through_a_layer_of_its_own():
    teacher, student, x = tiny().eval(), create_encoder("default", d=5), torch.randn(8, 1, 64, 32)
    distillation = Distillation(teacher, student, CONFIG)
    losses = distillation.losses(x, *embedding_and_frames(student, x))
    assert set(losses) == {"teacher"}
    losses["teacher"].backward()
    assert distillation.adapter.weight.grad.shape == (8, 5)
    assert all(not name.startswith("_teacher") for name in distillation.state_dict())


def test_features_are_standardised_and_useless_ones_left_out():
    features = np.array([[1.0, 7, 5, np.nan], [2, 7, np.nan, np.nan], [6, 7, 9, np.inf]])
    table = FeatureTable(features)
    assert table.n_features == 2
    np.testing.assert_allclose(table.values[:, 0], (features[:, 0] - 3) / np.std([1, 2, 6]), rtol=1e-6)
    np.testing.assert_allclose(table.values[:, 1], [-1, np.nan, 1], rtol=1e-6)
    outlier = np.zeros((1000, 1))
    outlier[0] = 1e6
    assert FeatureTable(outlier).values.max() == LARGEST_DEVIATION
    with pytest.raises(InvalidInputError, match="none that varies"):
        FeatureTable(np.ones((3, 2)))


def test_the_hybrid_loss_is_the_mean_squared_error_of_what_is_known():
    hybrid = Hybrid(FeatureTable(np.array([[1.0, 2], [3, np.nan], [5, 4]])), 8)
    online, clips = [torch.randn(3, 8), torch.randn(3, 8)], torch.tensor([2, 1, 0])
    wanted = hybrid.features.values[clips]
    known = wanted.isfinite()
    hybrid.eval()
    expected = np.mean([F.mse_loss(hybrid.head(y)[known], wanted[known]).item() for y in online])
    assert hybrid.loss(online, clips).item() == pytest.approx(expected)
    hybrid.train().loss(online, clips).backward()
    assert all(p.grad.isfinite().all() for p in hybrid.head.parameters())


def test_log_mel_statistics_equal_their_definitions():
    fft = pytest.importorskip("scipy.fft")
    for n_frames in (1, 2, 31, 96):
        log_mel = torch.randn(2, 64, n_frames, dtype=torch.float64) * 4 - 6
        for one, actual in zip(log_mel.numpy(), log_mel_statistics(log_mel)):
            rows = np.concatenate([one, fft.dct(one, axis=0, norm="ortho")[:20]])
            changes = np.diff(rows) if n_frames > 1 else np.zeros_like(rows)
            expected = [rows.mean(1), rows.std(1), *np.quantile(rows, (0, 0.5, 1), axis=1)]
            expected += [np.abs(changes).mean(1), changes.std(1)]
            np.testing.assert_allclose(actual, np.concatenate(expected), rtol=1e-10, atol=1e-10)


def test_statistics_of_crops_are_standardised():
    """Of every crop its own, whichever clip it is from."""
    features = CropStatistics()
    log_mel = 3 * torch.randn(64, 64, 31) + torch.randn(64, 1, 1)
    wanted = features(torch.zeros(64, dtype=torch.int64), log_mel)
    assert wanted.shape == (64, features.n_features)
    torch.testing.assert_close(wanted.mean(0), torch.zeros(588), atol=1e-4, rtol=0)
    assert wanted.abs().max() <= LARGEST_DEVIATION
    mean = log_mel.mean(2)  # the first 64 of the statistics
    expected = (mean - mean.mean(0)) / mean.std(0, correction=0)
    torch.testing.assert_close(wanted[:, :64], expected, atol=1e-3, rtol=1e-3)


def clips_named(*names: str) -> list[Clip]:
    return [Clip(Segment(name, Path(name)), 0.0, 1.0) for name in names]


def test_a_table_is_matched_by_name(tmp_path):
    (tmp_path / "t.csv").write_text("file,pitch,level\nb.wav,200,1\na.wav,100,2\nc.wav,,3\n")
    told = []
    clips = clips_named("a.wav", "b.wav", str(tmp_path / "c.wav"), "d.wav")
    table = load_features(str(tmp_path / "t.csv"), clips, lambda *error: told.append(error))
    np.testing.assert_allclose(table.values[:, 0], [-1, 1, np.nan, np.nan])
    assert table.values[2, 1] > table.values[0, 1] > table.values[1, 1]
    assert [name for name, _ in told] == ["d.wav"]


def test_a_parquet_table_is_the_same_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"path": ["a.wav", "b.wav"], "pitch": [100.0, 250.0], "n": [1, 2]})
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    tables = [
        load_features(str(tmp_path / f"t.{s}"), clips_named("a.wav", "b.wav"), print)
        for s in ("csv", "parquet")
    ]
    assert torch.equal(tables[0].values, tables[1].values)


@pytest.mark.parametrize("starts", [("0.0", "1.5"), ("0 days 00:00:00", "0 days 00:00:01.500000")])
def test_a_table_of_segments_is_matched_by_start(tmp_path, starts):
    rows = [f"a.wav,{start},9,{pitch}" for start, pitch in zip(starts, (100, 200))]
    (tmp_path / "t.csv").write_text("\n".join(["file,start,end,pitch", *rows]))
    clips = [Clip(Segment("a.wav", Path("a.wav"), start, None), 0.0, 1.0) for start in (1.5, None)]
    table = load_features(str(tmp_path / "t.csv"), clips, print)
    np.testing.assert_allclose(table.values, [[1], [-1]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,pitch\na.wav,1\n", "needs a column named 'file' or 'path'"),
        ("file\na.wav\n", "no features"),
        ("file,pitch\n", "no rows"),
        ("file,pitch\na.wav,high\n", "no number"),
        ("file,pitch\na.wav,1,2\n", "a row of 3"),
        ("file,pitch\nother.wav,1\n", "no row for any clip"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        load_features(str(tmp_path / "t.csv"), clips_named("a.wav", "b.wav"), print)


def test_a_table_that_is_not_there_is_refused(tmp_path):
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(InvalidInputError, match="cannot be read"):
            load_features(str(tmp_path / name), clips_named("a.wav"), print)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "vit"}, "unknown encoder 'vit'"),
        ({"lr_schedule": "linear"}, "unknown lr_schedule"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"lr": float("nan")}, "lr must be"),
        ({"ema_decay": 1.5}, "ema_decay must be from 0 to 1"),
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


def test_a_configuration_survives_json():
    config = PretrainConfig(encoder_config={"d": 4}, statistics=(-6.0, 5.0), crop_scale=(0.5, 1.0))
    assert PretrainConfig.from_dict(config.as_dict()) == config
    with pytest.raises(InvalidInputError, match="unknown: color"):
        PretrainConfig.from_dict({"color": 1})


def test_the_defaults_are_the_published_recipe():
    c = PretrainConfig()
    assert (c.lr, c.weight_decay, c.batch_size, c.ema_decay, c.seed) == (3e-4, 0.01, 256, 0.99, 42)
    assert (c.n_samples, c.n_frames, c.mixup_ratio, c.mixup_memory) == (15200, 96, 0.4, 2048)
    assert (c.crop_scale, c.crop_virtual_time, c.fader_gain, c.post_norm) == ((0.6, 1.5), 1.5, 0.0, True)
    assert {c.lr_factor(step) for step in (0, 50_000, 99_999)} == {1.0}
    assert {c.ema_decay_at(step) for step in (0, 99_999)} == {0.99}


def test_schedules_go_where_they_say():
    c = PretrainConfig(
        steps=1000, lr_schedule="cosine", warmup_steps=10, ema_schedule="cosine", ema_decay=0.9
    )
    assert [c.lr_factor(0), c.lr_factor(4)] == pytest.approx([0.1, 0.5], abs=1e-3)
    assert c.lr_factor(500) == pytest.approx(0.5)
    assert c.lr_factor(999) < 1e-5
    assert c.ema_decay_at(0) == pytest.approx(0.9)
    assert c.ema_decay_at(500) == pytest.approx(0.95)
    assert c.ema_decay_at(1000) == pytest.approx(1.0)


def test_a_model_made_by_hand_has_the_same_start():
    """The seed alone decides the first weights, whatever was drawn before."""
    from serab_byols.pretrain.corpus import CropReader, Crops
    from serab_byols.pretrain.module import PretrainModule

    config = PretrainConfig(encoder_config={"d": 4}, crop_s=0.3, batch_size=2)
    reader = CropReader(Crops(clips_named("a.wav"), config.n_samples, 2, 0), 0, print)
    first = PretrainModule(config, reader).encoder.fc[0].weight
    create_model(d=4)
    assert torch.equal(first, PretrainModule(config, reader).encoder.fc[0].weight)


def test_opensmile_gives_the_compare_functionals(tmp_path):
    pytest.importorskip("opensmile", reason="the extra 'hybrid' is not installed")
    clips = [
        Clip(Segment(str(path), path), 0.0, 1.0)
        for path in (write(tmp_path / f"{seed}.wav", voice(seed, seconds=1)) for seed in range(3))
    ]
    table = load_features("compare2016", clips, print)
    assert 5000 < table.n_features <= 6373
    assert table.values.shape[0] == 3
    torch.testing.assert_close(table.values.nanmean(0), torch.zeros(table.n_features), atol=1e-3, rtol=0)


def test_without_opensmile_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serab-byols\[hybrid\]'"):
        load_features("compare2016", clips_named("a.wav"), print)
