"""Ctrl-C and SIGTERM end a run where it is, but finish the step and save; a second one ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

from tunesmith.errors import Interrupted

_HANDLED = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """Raised where a signal arrived; no `except Exception` of a library takes it for one of its own."""


class Signals:
    """While the `with` block runs, a signal ends it: at once, or behind a block of `finishing`.

    Raises:
        Interrupted: On leaving, if a signal ended it, with the exit code that shells expect: 128 plus the signal's number.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        """What is safe and how to go on, as the end of a sentence for the user; kept up to date by whoever saves."""
        self._received: int | None = None
        self._finishing = False
        self._before: dict[int, object] = {}

    def reason(self) -> str | None:
        """The signal that came, None if none did."""
        return None if self._received is None else signal.Signals(self._received).name

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """Let a signal wait for the end of the block, which asks `reason` whether one came.

        Raises:
            Stopped: On leaving, if one did.
        """
        self._finishing = True
        try:
            yield
        finally:
            self._finishing = False
        self._stop_if_asked()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A part of a block of `finishing` that a signal ends where it is.

        Raises:
            Stopped: If one came, now or before.
        """
        self._finishing = False
        try:
            self._stop_if_asked()
            yield
        finally:
            self._finishing = True

    def interrupted(self) -> Interrupted:
        """The error that says what happened and how to go on."""
        assert self._received is not None
        return Interrupted(f"Stopped by {self.reason()}; {self.advice}", 128 + self._received)

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._before = {number: signal.signal(number, self._receive) for number in _HANDLED}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        if isinstance(error, Stopped):
            raise self.interrupted() from None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            os._exit(128 + number)
        self._received = number
        if not self._finishing:
            raise Stopped

    def _stop_if_asked(self) -> None:
        if self._received is not None:
            raise Stopped
