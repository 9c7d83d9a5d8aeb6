"""The live view of a run on stderr: sentences, warnings, and a progress line on whatever takes over two seconds."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from tunesmith.commands import _output
from tunesmith.quantity import format_bytes, format_count, format_seconds
from tunesmith.watch import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

QUIET_SECONDS = 2.0
"""A phase that is over by then shows no progress."""
PLAIN_INTERVAL_SECONDS = 10.0
"""How often a line is written where the terminal cannot be rewritten."""
BAR_COLUMNS = (20, 6)
"""Width of the bar where there is room, and at least."""
FIRST_TO_GO = ("learning rate", "memory", "speed", "loss", "left")
"""What a narrow terminal does without, in this order."""


class View:
    """A watch on stderr; a bar that moves on a terminal, a line now and then elsewhere."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or _output.console(stderr=True)
        self._quiet = quiet
        self._phase: str | None = None
        self._started = self._last_line = 0.0
        self._done_before = 0
        self._live: Live | None = None

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_phase()

    def say(self, text: str) -> None:
        """Show a fact."""
        if not self._quiet:
            self._console.print(_output.clean(text))

    def warn(self, text: str) -> None:
        """Show a warning, also when quiet."""
        from rich.text import Text

        self._console.print(Text("warning: ", style="yellow").append(_output.clean(text), style="default"))

    def progress(self, progress: Progress) -> None:
        """Show how far the phase is, if it has taken long enough to be worth it."""
        if self._quiet:
            return
        now = time.monotonic()
        if progress.phase != self._phase:
            self._end_phase()
            self._phase, self._started, self._last_line = progress.phase, now, 0.0
            self._done_before = max(0, progress.done - 1)  # training goes on after an evaluation, or a resume
        elapsed, over = now - self._started, progress.done == progress.total
        shown = self._live is not None or self._last_line > 0
        if elapsed >= QUIET_SECONDS and (shown or not over):
            share = progress.done / max(1, progress.done - self._done_before)
            self._show(progress, elapsed * share, now)
        if over:
            self._end_phase()

    def _show(self, progress: Progress, elapsed: float, now: float) -> None:
        """Move the bar, or write a line if the last one is old enough; `elapsed` is what all units done would have taken."""
        if self._console.is_terminal:
            from rich.live import Live

            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=4, transient=True)
                self._live.start()
            self._live.update(_bar(progress, elapsed, self._console.width))
        elif now - self._last_line >= PLAIN_INTERVAL_SECONDS or progress.done == progress.total:
            self._last_line = now
            self._console.print(line(progress, elapsed))

    def _end_phase(self) -> None:
        """Take the bar away."""
        if self._live is not None:
            self._live.stop()
        self._live, self._phase, self._last_line = None, None, 0.0


def _bar(progress: Progress, elapsed: float, columns: int) -> Table:
    """A bar with the numbers behind it, on one line of the terminal."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    phase, numbers = _output.clean(progress.phase), _numbers(progress, elapsed)
    most, least = BAR_COLUMNS
    room = columns - len(phase) - 3  # a space after each of the three
    for name in FIRST_TO_GO:
        if len(", ".join(numbers.values())) + least > room:
            numbers.pop(name, None)
    text = ", ".join(numbers.values())
    grid = Table.grid(padding=(0, 1))
    for _ in range(3):
        grid.add_column(no_wrap=True)
    pulse = progress.total is None
    width = max(least, min(most, room - len(text)))
    bar = ProgressBar(total=progress.total or 1, completed=0 if pulse else progress.done, width=width, pulse=pulse)
    grid.add_row(phase, bar, text)
    return grid


def line(progress: Progress, elapsed: float) -> str:
    """How far a phase is, in one line of plain text; `elapsed` is in seconds."""
    return _output.clean(f"{progress.phase}: {', '.join(_numbers(progress, elapsed).values())}")


def _numbers(progress: Progress, elapsed: float) -> dict[str, str]:
    """Everything that is known, by what it is, in the order in which it is shown."""
    numbers = {"amount": _amount(progress)}
    if progress.total and 0 < progress.done < progress.total:
        numbers["left"] = f"{format_seconds(elapsed / progress.done * (progress.total - progress.done))} left"
    if progress.loss is not None:
        numbers["loss"] = f"loss {progress.loss:.3f}"
    if progress.learning_rate is not None:
        numbers["learning rate"] = f"learning rate {progress.learning_rate:.1e}"
    if progress.tokens_per_second is not None:
        numbers["speed"] = f"{format_count(progress.tokens_per_second)} tokens/s"
    if progress.memory_bytes is not None:
        numbers["memory"] = format_bytes(progress.memory_bytes)
    return numbers


def _amount(progress: Progress) -> str:
    """What is done of what there is: `120/500 steps`, `12 MB of 93 MB`."""
    if progress.unit == "bytes":
        total = f" of {format_bytes(progress.total)}" if progress.total else ""
        return format_bytes(progress.done) + total
    total = f"/{progress.total:,}" if progress.total else ""
    return f"{progress.done:,}{total} {progress.unit}"
