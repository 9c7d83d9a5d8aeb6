"""A second process is refused at once and told who is there; the lock ends with its process, also by kill -9."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tunesmith.checkpoint.lock import FILE_NAME, RunLock, is_held
from tunesmith.errors import RunError, RunLocked

HOLD = """
import sys, time
from pathlib import Path
from tunesmith.checkpoint.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        assert is_held(tmp_path / "run")
        with (
            pytest.raises(RunLocked, match=rf"in use by process {holder.pid} on .*Wait for it to end"),
            RunLock(tmp_path / "run"),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert not is_held(tmp_path / "run")
        with RunLock(tmp_path / "run"):
            pass


def test_not_twice_in_one_process_and_again_afterwards(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(RunLocked, match=str(os.getpid())), RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        pass


def test_whoever_looks_does_not_keep_a_run_from_beginning(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        pass
    with (tmp_path / FILE_NAME).open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.01, lambda: fcntl.flock(look, fcntl.LOCK_UN)).start()
        with RunLock(tmp_path):
            assert is_held(tmp_path)
    assert not is_held(tmp_path)
    assert not is_held(tmp_path / "nowhere")


def test_freed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    with RunLock(tmp_path):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written to"), RunLock(tmp_path / "file"):
        pass
