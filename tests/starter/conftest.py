"""Starters that never were, and a pip that only copies them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from starter_archives import pin_for, zip_bytes
from tunesmith.starter import download, pins, resolve


@dataclass
class FakePip:
    """Stands in for `subprocess.Popen`: copies a file to --dest, or fails with a message."""

    archive: Path
    message: str = ""
    commands: list[list[str]] = field(default_factory=list)
    environments: list[dict[str, str]] = field(default_factory=list)
    returncode: int | None = None

    def __call__(self, command, *, stdout, env, **_):
        self.commands.append(command)
        self.environments.append(env)
        stdout.write(self.message.encode())
        self.returncode = 1 if self.message else 0
        if not self.message:
            folder = Path(command[command.index("--dest") + 1])
            folder.mkdir()
            shutil.copy(self.archive, folder / self.archive.name)
        return self

    def poll(self) -> int | None:
        return self.returncode


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def toy(tmp_path, cache, monkeypatch) -> Callable[..., FakePip]:
    """Pin an archive of the given content as `starter:toy` and put a pip in place that has it."""

    def make(content: bytes | None = None, message: str = "", **changes: object) -> FakePip:
        content = zip_bytes({"toy/model/config.json": b"{}", "toy/cli.py": b"evil"}) if content is None else content
        pin = pin_for(content, **changes)
        path = tmp_path / pin.archive
        path.write_bytes(content)
        pip = FakePip(path, message)
        monkeypatch.setattr(resolve, "pins", lambda: {"toy": pin})
        monkeypatch.setattr(download.subprocess, "Popen", pip)
        return pip

    return make


@pytest.fixture(autouse=True)
def _fresh_table():
    pins.pins.cache_clear()
