from __future__ import annotations

import io

import pytest
from rich.console import Console

from tunesmith.commands import _view
from tunesmith.commands._view import View, line
from tunesmith.watch import Progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, as a list of one number that a test can change."""
    now = [100.0]
    monkeypatch.setattr(_view.time, "monotonic", lambda: now[0])
    return now


def _watched(clock, seconds: float, *, total: int = 100, terminal: bool = False, quiet: bool = False) -> str:
    """What is written while a phase takes a second per unit."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, markup=False, highlight=False)
    with View(quiet=quiet, console=console) as view:
        for done in range(int(seconds) + 1):
            view.progress(Progress(phase="training", done=done, total=total, loss=0.5))
            clock[0] += 1
    return output.getvalue()


def test_nothing_on_less_than_two_seconds(clock):
    assert _watched(clock, 1) == ""
    assert _watched(clock, 5, total=5) != ""


def test_plain_lines_now_and_then(clock):
    assert _watched(clock, 30).splitlines() == [
        "training: 2/100 steps, 1 min 38 s left, loss 0.500",
        "training: 12/100 steps, 1 min 28 s left, loss 0.500",
        "training: 22/100 steps, 1 min 18 s left, loss 0.500",
    ]


def test_the_last_line_says_it_is_over(clock):
    assert _watched(clock, 6, total=6).splitlines()[-1] == "training: 6/6 steps, loss 0.500"


def test_a_bar_on_a_terminal(clock):
    shown = _watched(clock, 4, terminal=True)
    assert "4/100 steps" in shown
    assert "━" in shown


def test_quiet(clock):
    assert _watched(clock, 30, quiet=True) == ""


def test_a_new_phase_starts_a_new_clock(clock):
    output = io.StringIO()
    with View(console=Console(file=output, width=120)) as view:
        view.progress(Progress(phase="reading", done=1, total=2))
        clock[0] += 5
        view.progress(Progress(phase="training", done=1, total=2))
    assert output.getvalue() == ""


def test_everything_that_is_known():
    progress = Progress(
        phase="training",
        done=120,
        total=500,
        loss=0.5213,
        learning_rate=2e-4,
        tokens_per_second=12_400,
        memory_bytes=1_500_000_000,
    )
    shown = line(progress, 60)
    assert shown == "training: 120/500 steps, 3 min 10 s left, loss 0.521, learning rate 2.0e-04, 12,400 tokens/s, 1.5 GB"


@pytest.mark.parametrize(
    ("columns", "kept", "gone"), [(120, "learning rate", "none"), (80, "1.5 GB", "rate"), (40, "120/150", "loss")]
)
def test_the_bar_is_one_line_however_narrow_the_terminal(clock, columns, kept, gone):
    """A bar on two lines jumps about; what a narrow terminal has no room for is left out whole."""
    progress = Progress(
        phase="training",
        done=120,
        total=150,
        loss=0.5213,
        learning_rate=2e-4,
        tokens_per_second=12_400,
        memory_bytes=1_500_000_000,
    )
    console = Console(file=io.StringIO(), width=columns)
    with console.capture() as capture:
        console.print(_view._bar(progress, 200.0, columns))
    shown = capture.get()
    assert shown.count("\n") == 1
    assert "━" in shown
    assert kept in shown
    assert gone not in shown


def test_bytes_and_unknown_totals():
    fetching = Progress(phase="fetching", done=12_000_000, total=93_000_000, unit="bytes")
    assert line(fetching, 0.0).startswith("fetching: 12 MB of 93 MB")
    assert line(Progress(phase="reading", done=1200, unit="rows"), 3.0) == "reading: 1,200 rows"


def test_texts_are_shown_as_they_are():
    output = io.StringIO()
    view = View(console=Console(file=output, width=120, markup=False, highlight=False))
    view.say("[bold]rows[/bold] \x1b[31m")
    view.warn("[red]x")
    assert output.getvalue() == "[bold]rows[/bold] �[31m\nwarning: [red]x\n"


def test_the_time_left_counts_what_was_done_in_this_phase_only(clock):
    """Training goes on after an evaluation with most of its steps behind it."""
    output = io.StringIO()
    with View(console=Console(file=output, width=120)) as view:
        view.progress(Progress(phase="training", done=101, total=200))
        clock[0] += 11
        view.progress(Progress(phase="training", done=111, total=200))
    assert output.getvalue() == "training: 111/200 steps, 1 min 29 s left\n"
