"""What a process that was forked to compute must know: it obeys its parent alone, and ends with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_DIE_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG


def is_possible() -> bool:
    """Whether this system can fork a process that computes; elsewhere libraries do not survive it."""
    return sys.platform == "linux"


def obey_only(parent: int) -> None:
    """End with the parent, however it ends; signals to the group are for the parent to answer.

    Raises:
        EOFError: If it is no more.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        raise EOFError
