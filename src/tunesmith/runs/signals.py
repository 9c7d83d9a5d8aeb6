"""Ctrl-C and SIGTERM finish the step and save; a second one ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType

from tunesmith.errors import Interrupted

_HANDLED = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """While the `with` block runs, the first signal is remembered for the loop to ask for."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, object] = {}

    def reason(self) -> str | None:
        """Why to stop after this step, None if there is no reason."""
        return None if self._received is None else signal.Signals(self._received).name

    def raise_if_stopped(self, folder: Path) -> None:
        """End the run if a signal came.

        Raises:
            Interrupted: With the exit code that shells expect, 128 plus the signal's number.
        """
        if self._received is not None:
            message = f"Stopped by {self.reason()}; everything is saved. Go on with: tunesmith resume {folder}"
            raise Interrupted(message, 128 + self._received)

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._before = {number: signal.signal(number, self._remember) for number in _HANDLED}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            os._exit(128 + number)
        self._received = number
