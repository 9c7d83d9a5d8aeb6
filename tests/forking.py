"""Starts real processes that can be killed, in milliseconds: a server imports everything once and forks a child for each.

A child is the command line in its own process, as `tunesmith WORDS`, with a fault of `faults.py` planted if asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

LIMIT_SECONDS = 120.0


@dataclass
class Server:
    """The process that forks; `with` ends it."""

    process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Server:
        command = [sys.executable, "-W", "ignore", str(Path(__file__))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(LIMIT_SECONDS)
        self.process.stdout.close()

    def start(self, words: Sequence[str], folder: Path, *, fault: Sequence[str] = ()) -> Child:
        """A process with this command line, in `folder`."""
        order = {"words": list(words), "folder": str(folder), "fault": list(fault)}
        return Child(self, int(self.ask(order)), folder)

    def run(self, words: Sequence[str], folder: Path, *, fault: Sequence[str] = ()) -> Child:
        """The same, at its end."""
        child = self.start(words, folder, fault=fault)
        child.wait()
        return child

    def ask(self, order: dict[str, object]) -> str:
        """The server's answer to an order."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@dataclass
class Child:
    """One run of the command line."""

    server: Server
    pid: int
    folder: Path
    code: int | None = None
    """As a shell gives it, negative where a signal ended the process; None while it runs."""

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def ended(self) -> bool:
        """Whether it is over."""
        if self.code is None and (answer := self.server.ask({"poll": self.pid})) != "running":
            self.code = int(answer)
        return self.code is not None

    def wait(self) -> int:
        """The exit code, when it is over."""
        start = time.monotonic()
        while not self.ended():
            if time.monotonic() - start > LIMIT_SECONDS:
                self.send(signal.SIGKILL)
                raise AssertionError(f"still running after {LIMIT_SECONDS} s; it said: {self.err}")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def wait_for(self, path: Path) -> None:
        """Go on when the file is there."""
        start = time.monotonic()
        while not path.exists():
            assert not self.ended(), f"ended with {self.code}: {self.err}"
            assert time.monotonic() - start < LIMIT_SECONDS, self.err
            time.sleep(0.005)

    @property
    def out(self) -> str:
        """What it wrote to stdout."""
        return _log(self.folder, self.pid, "out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What it wrote to stderr."""
        return _log(self.folder, self.pid, "err").read_text(encoding="utf-8")


def _log(folder: Path, pid: int, kind: str) -> Path:
    return folder / f".child-{pid}.{kind}"


def _serve(orders: IO[str], answers: IO[str]) -> None:
    for name in ("api", "commands.fit", "commands._result", "reports.summary", "reports.figures"):  # everything heavy, once
        importlib.import_module(f"tunesmith.{name}")
    print("ready", file=answers, flush=True)
    for line in orders:
        order = json.loads(line)
        if "poll" in order:
            pid, status = os.waitpid(order["poll"], os.WNOHANG)
            print("running" if pid == 0 else os.waitstatus_to_exitcode(status), file=answers, flush=True)
        else:
            pid = os.fork()
            if pid == 0:
                _become(order)
            print(pid, file=answers, flush=True)


def _become(order: dict[str, list[str]]) -> None:
    """Be the command line; never returns."""
    code = 1
    try:
        os.chdir(str(order["folder"]))
        for number, kind in ((1, "out"), (2, "err")):
            opened = os.open(_log(Path(), os.getpid(), kind), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        import faults
        from tunesmith.commands import main

        faults.no_figures()
        if order["fault"]:
            getattr(faults, order["fault"][0])(*order["fault"][1:])
        sys.argv = ["tunesmith", *order["words"]]
        code = main(order["words"])
    except KeyboardInterrupt:
        code = 130
    except Exception:  # noqa: BLE001 - of the fault, or before the command began; nobody else would tell
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.stdin, os.fdopen(os.dup(1), "w"))
