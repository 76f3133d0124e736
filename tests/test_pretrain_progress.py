"""What a training tells the one who waits: bars, lines now and then, how long it will take, pictures."""

import io
import sys

import pytest
from sounds import voice, write

from serab_byols.pretrain import Machine, PretrainConfig, pretrain, progress
from serab_byols.pretrain.crops import CropReader, Crops, find_clips
from serab_byols.pretrain.progress import SILENT, Reporting, is_started_by_another
from serab_byols.pretrain.training_plots import MAX_CLIPS, plot_first_views, plot_loss
from serab_byols.pretrain.training_speed import TrainingSpeed, estimate, has_fast_bfloat16, quicker

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = PretrainConfig(encoder_config={"d": 4}, crop_s=0.3, batch_size=4, mixup_memory=8, steps=6)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Each step waits for its audio and then computes for as long as it is told."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s

    def run(self, speed, n_steps, waiting_s, computing_s):
        for _ in range(n_steps):
            self.now_s += waiting_s
            speed.batch_arrived()
            self.now_s += computing_s
            speed.step_issued()
            speed.steps_done()


@pytest.fixture
def folder(tmp_path):
    for seed in range(3):
        write(tmp_path / f"{seed}.wav", voice(seed, seconds=0.5))
    return tmp_path


@pytest.fixture
def every_line(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)


def test_without_a_terminal_there_is_a_line_now_and_then(every_line):
    lines = []
    with Reporting(lines.append).track("training", 4, "step", initial=1) as of_training:
        for loss in ("1.5", "1.25", "1"):
            of_training.update(loss=loss)
    assert [line.partition(", about")[0] for line in lines[:2]] == [
        f"training: {n} of 4 steps" for n in (2, 3)
    ]
    assert lines[0].endswith(" left, loss 1.5")
    assert lines[2] == "training: 4 of 4 steps, loss 1"
    lines.clear()
    with Reporting(lines.append).track("audio files", None, "file") as of_files:
        of_files.update()
        of_files.update()
    assert lines == ["audio files: 1 files", "audio files: 2 files"]


def test_lines_keep_their_distance_and_quiet_means_quiet(every_line, monkeypatch):
    lines = []
    for reporting in (SILENT, Reporting(lines.append, shows_progress=False)):
        with reporting.track("training", 3, "step") as of_training:
            of_training.update()
    monkeypatch.setattr(progress, "LINE_EVERY_S", 3600.0)
    with Reporting(lines.append).track("training", 3, "step") as of_training:
        of_training.update()
    assert lines == []


def test_on_a_terminal_there_is_a_bar_at_once_and_messages_go_above_it(every_line, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    reporting = Reporting(lambda text: print(text, file=sys.stderr))
    with reporting.track("audio files", None, "file") as of_files:
        assert "audio files: 0file" in sys.stderr.getvalue()
        of_files.update()
        reporting.message("left out: a.wav")
    shown = sys.stderr.getvalue()
    assert "\rleft out: a.wav\n" in shown
    assert "1 files" not in shown  # no lines beside the bar


def test_pretraining_shows_a_bar_before_it_imports_and_reads_anything(folder, monkeypatch):
    seen = []

    def find(*arguments):
        seen.append(sys.stderr.getvalue())
        return find_clips(*arguments)

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("serab_byols.pretrain.pretraining.find_clips", find)
    pretrain([str(folder)], folder / "a.safetensors", SMALL, on_message=lambda _: None)
    assert "listing files: 0file" in seen[0]
    assert "listing files: 3file" in sys.stderr.getvalue()
    assert "reading headers: 100%" in sys.stderr.getvalue()
    assert "training: 100%" in sys.stderr.getvalue()


def test_pretraining_says_how_long_it_will_take(folder, every_line, monkeypatch):
    monkeypatch.setattr("serab_byols.pretrain.training_speed.STEPS_TO_MEASURE", 3)
    messages = []
    pretrain([str(folder)], folder / "a.safetensors", SMALL, on_message=messages.append)
    estimates = [message for message in messages if "steps that are left" in message]
    assert len(estimates) == 1
    assert "for the 3 steps" in estimates[0]
    assert any(message.startswith("training: 5 of 6 steps, about ") for message in messages)
    messages.clear()
    machine = Machine(bar=False)
    pretrain([str(folder)], folder / "b.safetensors", SMALL, machine=machine, on_message=messages.append)
    assert len(messages) == 1  # what is trained on what
    assert not any("left" in message for message in messages)


@pytest.mark.parametrize("name", ["LOCAL_RANK", "NODE_RANK"])
def test_only_the_first_process_reports_before_lightning_knows(name, monkeypatch):
    assert not is_started_by_another()
    monkeypatch.setenv(name, "0")
    assert not is_started_by_another()
    monkeypatch.setenv(name, "1")
    assert is_started_by_another()


def test_the_speed_is_that_of_a_typical_step():
    clock = Clock()
    speed = TrainingSpeed(clock)
    clock.run(speed, 1, waiting_s=20, computing_s=10)  # the first decodes and warms up
    clock.run(speed, 1, waiting_s=0.5, computing_s=1.5)
    assert not speed.is_known
    assert speed.step_s == 2
    clock.run(speed, 17, waiting_s=0.5, computing_s=1.5)
    clock.run(speed, 1, waiting_s=0.5, computing_s=1.5)
    assert speed.is_known
    assert (speed.step_s, speed.last_step_s, speed.waiting) == (2.0, 2.0, 0.25)


@pytest.mark.parametrize(("behind_s", "waited_s"), [(6, 0.0), (0.5, 3.5)])
def test_steps_that_a_device_does_later_are_measured_together(behind_s, waited_s):
    """Waiting for audio costs nothing while the device is busy with earlier steps."""
    clock = Clock()
    speed = TrainingSpeed(clock)
    clock.run(speed, 1, waiting_s=5, computing_s=5)
    for _ in range(4):  # the host waits for audio, issues the step, and goes on
        clock.now_s += 1
        speed.batch_arrived()
        clock.now_s += 0.5
        speed.step_issued()
    clock.now_s += behind_s  # until the device has done them
    speed.steps_done()
    assert speed.last_step_s == speed.step_s == (6 + behind_s) / 4
    assert speed.waiting == pytest.approx(waited_s / (6 + behind_s))


def test_slow_steps_are_measured_sooner():
    clock = Clock()
    speed = TrainingSpeed(clock)
    clock.run(speed, 2, waiting_s=0, computing_s=100)
    assert not speed.is_known
    clock.run(speed, 1, waiting_s=0, computing_s=100)
    assert speed.is_known


def test_an_estimate_says_what_would_be_quicker_where_it_is_long():
    clock = Clock()
    speed = TrainingSpeed(clock)
    clock.run(speed, 21, waiting_s=0, computing_s=2)
    short = estimate(speed, 10, PretrainConfig(), Machine())
    assert short == "about 20 s for the 10 steps that are left, 2 s each"
    long = estimate(speed, 6000, PretrainConfig(), Machine(max_minutes=30))
    assert long.startswith(
        "about 3 h 20 min for the 6000 steps that are left, 2 s each (it stops after 30 min"
    )
    assert "Quicker: fewer --steps, a smaller --batch-size than 256" in long


def test_what_is_quicker_depends_on_what_is_slow():
    small = PretrainConfig(encoder_config={"d": 512}, batch_size=32)
    assert quicker(small, Machine(), 0.1, False, False) == ["fewer --steps"]
    ways = ", ".join(quicker(PretrainConfig(), Machine(cache_gb=2), 0.3, True, True))
    for way in ("--batch-size", "--size 512", "--accelerator gpu", "bf16-mixed", "--cache-gb than 2"):
        assert way in ways
    assert "30% of the time" in ways
    on_gpu = ", ".join(quicker(small, Machine(accelerator="gpu"), 0, False, True))
    assert "bf16-mixed" in on_gpu
    assert "--accelerator" not in on_gpu
    in_half = quicker(small, Machine(precision="bf16-mixed"), 0, True, False)
    assert in_half == ["fewer --steps"]
    assert isinstance(has_fast_bfloat16(), bool)


def first_views(folder, batch_size, **options):
    config = PretrainConfig(crop_s=0.3, batch_size=batch_size, mixup_memory=8, **options)
    clips = find_clips([str(folder)], print)
    reader = CropReader(Crops(clips, config.n_samples, batch_size, 0), 10**8, print)
    return plot_first_views(config, reader, folder / "views.png")


def test_of_a_large_batch_only_the_first_crops_are_drawn_with_units(folder):
    """256 rows, all but eight of them empty, were 47 916 pixels high."""
    pytest.importorskip("matplotlib")
    figure = first_views(folder, batch_size=40)
    assert figure.get_size_inches()[1] < 20
    *panels, bar = figure.axes
    assert len(panels) == 3 * MAX_CLIPS
    assert all(len(axes.images) == 1 for axes in panels)
    for axes in panels:
        assert axes.images[0].get_extent() == [0, 0.3, -0.5, 63.5]
    assert panels[0].get_ylabel().endswith("mel band (Hz)")
    ticks = [float(label.get_text()) for label in panels[0].get_yticklabels()]
    assert 60 < ticks[0] < 100
    assert 7000 < ticks[-1] < 7800
    assert {axes.get_xlabel() for axes in panels[-3:]} == {"time (s)"}
    assert "standard deviations" in bar.get_ylabel()
    assert figure.get_suptitle()
    assert len(first_views(folder, batch_size=2, byol_weight=0, hybrid_weight=1).axes) == 2 * 2 + 1


@pytest.mark.parametrize("losses", [[1.0012, 1.0011, 1.0013], [4.0, 0.3, 0.002], [2.0], [0.0, 0.0]])
def test_the_loss_curve_has_plain_numbers_and_a_title(tmp_path, losses):
    pytest.importorskip("matplotlib")
    rows = [f"{step},{loss},{loss},0.00012,0.1,5" for step, loss in enumerate(losses)]
    log = tmp_path / "mine.log.csv"
    log.write_text("\n".join(["step,loss,byol,spread,lr,crops_per_s", *rows]))
    figure = plot_loss(log, tmp_path / "loss.png")
    assert figure.get_suptitle() == f"Pretraining of mine, {len(losses)} steps"
    above, below = figure.axes
    for axis in (above.xaxis, above.yaxis, below.xaxis, below.yaxis):
        assert axis.get_offset_text().get_text() == ""
        assert all(
            label.get_text().lstrip("-\u2212").replace(".", "").isdigit() for label in axis.get_ticklabels()
        )
    assert len(above.yaxis.get_ticklabels()) >= 2
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
