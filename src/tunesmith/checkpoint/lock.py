"""Only one process works in a run folder."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from tunesmith.errors import RunError, RunLocked

FILE_NAME = ".lock"
_LOOK_SECONDS = 0.05
"""Far longer than `is_held` takes, which holds the lock while it looks."""


def is_held(folder: Path) -> bool:
    """Whether a process works in the folder, or it cannot be found out."""
    try:
        descriptor = os.open(folder / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


class RunLock:
    """Holds a run folder while the `with` block runs; the system frees it when the process ends, however it ends.

    Raises:
        RunLocked: On entering, if another process holds the folder; the message names it.
        RunError: On entering, if the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        """Take the lock or raise; nobody waits for a run to end."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise RunError(f"{self._folder} cannot be written to: {error.strerror}. Choose another run folder.") from None
        if not (_taken(descriptor) or _taken(descriptor, after=_LOOK_SECONDS)):
            holder = os.pread(descriptor, 200, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f"process {holder}" if holder else "another process"
            raise RunLocked(f"{self._folder} is in use by {who}. Wait for it to end, or choose another run folder.")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode("ascii", "replace"), 0)
        self._descriptor = descriptor
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free the folder. The file stays: removing it would let two processes hold locks on two files of one name."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def _taken(descriptor: int, *, after: float = 0.0) -> bool:
    """Whether the lock could be had, after so many seconds."""
    time.sleep(after)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
