"""How far `embed` is: a bar in a terminal, a line now and then elsewhere."""

import io
import sys
from collections import Counter
from functools import partial

import pytest

from serab_byols.cli import clip_progress
from serab_byols.cli.clip_progress import ClipProgress
from serab_byols.corpus import clip_bar
from serab_byols.corpus.segments import Segment
from serab_byols.display.progress_bar import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clip_progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_now_and_then(clock, capsys):
    with ClipProgress(False, "errors.csv") as progress:
        progress.start(1000, 100, Counter({".txt": 3, "": 1}))
        for _ in range(400):
            clock[0] += 0.125
            progress.advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "serab-byols: passed over 4 files that are not audio by suffix (3 .txt, 1 without)",
        "serab-byols: 341 of 1000 clips, 8.0 a second, about 82 s left",
    ]


def test_quiet_is_quiet(clock, capsys):
    with ClipProgress(True, "errors.csv") as progress:
        progress.start(10, 0, Counter({".txt": 3}))
        clock[0] += 1000
        progress.advance(5)
        progress.within(Segment("long.wav", "long.wav"), 0.5)
    assert capsys.readouterr().err == ""


def test_in_a_terminal_there_is_a_bar_and_one_within_long_recordings(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(clip_bar, "progress_bar", partial(progress_bar, mininterval=0))
    with ClipProgress(False, "errors.csv") as progress:
        progress.start(4, 1, Counter())
        progress.within(Segment("folder/long\x1b.wav", "long.wav"), 0.37)
        progress.within(Segment("folder/long\x1b.wav", "long.wav"), 0.62)
        progress.advance(1)
    drawn = terminal.getvalue()
    assert "2/4" in drawn
    assert "long\\x1b.wav:  37%" in drawn
    assert "\x1b.wav" not in drawn


def test_errors_are_told_above_the_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ClipProgress(False, "errors.csv") as progress:
        progress.start(30, 0, Counter())
        for i in range(25):
            progress.tell(f"{i}.wav: bad")
    told = terminal.getvalue()
    assert "serab-byols: 19.wav: bad\n" in told
    assert "20.wav" not in told
    assert "serab-byols: and 5 more errors; all 25 are in errors.csv\n" in told
