"""A disk that can lose power: what a program did to it is recorded, and every state a cut may leave is played back.

What was not flushed may be there or not, file contents and folder entries independently of each other and in any
order. A flushed file keeps its contents; a flushed folder keeps its entries.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tunesmith import durable

Kind = Literal["folder", "file", "write", "flush", "rename", "remove", "done"]


@dataclass(frozen=True)
class Act:
    """One thing that was done, with paths relative to the recorded folder."""

    kind: Kind
    path: str = ""
    target: str = ""
    data: bytes = b""


@dataclass
class Recorder:
    """Records what is done below `root` while it is installed."""

    root: Path
    acts: list[Act] = field(default_factory=list)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Record `os.mkdir`, `open`, `write`, `fsync`, `rename`, `Path.write_bytes` and `durable.remove`."""
        mkdir, opened, write, fsync, rename, remove = os.mkdir, os.open, os.write, os.fsync, os.rename, durable.remove

        def record(kind: Kind, path: object, target: object = "", data: bytes = b"") -> None:
            self.acts.append(Act(kind, self._name(path), self._name(target) if target else "", data))

        def recorded_open(path: str, flags: int, mode: int = 0o777, **place: int) -> int:
            if flags & os.O_CREAT:
                record("file", path)
            return opened(path, flags, mode, **place)

        def recorded_write_bytes(path: Path, data: bytes) -> None:
            descriptor = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(descriptor, data)
            os.close(descriptor)

        def recorded_remove(path: Path) -> None:
            if path.exists():
                record("remove", path)
            remove(path)

        patch.setattr(os, "mkdir", lambda path, *rest: (mkdir(path, *rest), record("folder", path))[0])
        patch.setattr(os, "open", recorded_open)
        patch.setattr(os, "write", lambda fd, data: (record("write", _path_of(fd), data=bytes(data)), write(fd, data))[1])
        patch.setattr(os, "fsync", lambda fd: (fsync(fd), record("flush", _path_of(fd)))[0])
        patch.setattr(os, "rename", lambda a, b: (rename(a, b), record("rename", a, b))[0])
        patch.setattr(Path, "write_bytes", recorded_write_bytes)
        patch.setattr(durable, "remove", recorded_remove)

    def _name(self, path: object) -> str:
        return str(Path(str(path)).relative_to(self.root))


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


@dataclass(eq=False)
class _Node:
    entries: dict[str, _Node] | None = None
    data: bytes = b""


def states(acts: list[Act], chance: random.Random, num_random: int = 3) -> Iterator[tuple[int, str, Callable[[Path], None]]]:
    """After how many acts the power fails, what is lost, and a function that writes the state into a folder."""
    for length in range(len(acts) + 1):
        pending = _pending(acts[:length])
        contents = {i for i in pending if acts[i].kind == "write"}
        entries = pending - contents
        lost: dict[str, set[int]] = {"nothing": set(), "contents": contents, "entries": entries, "all": pending}
        lost |= {f"random {n}": {i for i in pending if chance.random() < 0.5} for n in range(num_random)}
        for name, dropped in lost.items():
            yield length, name, lambda place, n=length, d=dropped: _write_out(_play(acts[:n], d), place)


def _pending(acts: list[Act]) -> set[int]:
    """Which acts no later flush has made safe; files and folders are followed through renames."""
    waiting: dict[int, set[int]] = {}
    pending: set[int] = set()

    def see(index: int, act: Act, folders: list[_Node], file: _Node | None) -> None:
        if act.kind == "flush" and file is not None:
            pending.difference_update(waiting.pop(id(file), set()))
        elif act.kind not in ("flush", "done"):
            pending.add(index)
            for node in [file] if act.kind == "write" and file else folders:
                waiting.setdefault(id(node), set()).add(index)

    _play(acts, set(), see)
    return pending


def _play(
    acts: list[Act], dropped: set[int], see: Callable[[int, Act, list[_Node], _Node | None], None] | None = None
) -> _Node:
    """The tree after all acts but those that are dropped; acts on what is not there do nothing."""
    root = _Node({})
    kept = []  # nodes stay alive, so that no two share an id
    for index, act in enumerate(acts):
        folder, name = _find(root, act.path)
        node = root if act.path == "." else (folder.entries or {}).get(name) if folder else None
        kept.append(node)
        touched = [folder] if folder else []
        if see:
            see(index, act, touched, node)
        if index in dropped or folder is None or folder.entries is None:
            continue
        if act.kind in ("folder", "file"):
            folder.entries[name] = _Node({} if act.kind == "folder" else None)
        elif act.kind == "write" and node:
            node.data += act.data
        elif act.kind == "remove":
            folder.entries.pop(name, None)
        elif act.kind == "rename" and node:
            target, new_name = _find(root, act.target)
            if target and target.entries is not None:
                target.entries[new_name] = folder.entries.pop(name)
    return root


def _find(root: _Node, path: str) -> tuple[_Node | None, str]:
    """The folder node that holds `path`, and the last part."""
    *parents, name = path.split("/")
    node: _Node | None = root
    for parent in parents:
        node = (node.entries or {}).get(parent) if node else None
    return node, name


def _write_out(node: _Node, place: Path) -> None:
    if place.exists():
        shutil.rmtree(place)
    place.mkdir()
    for name, entry in (node.entries or {}).items():
        if entry.entries is None:
            (place / name).write_bytes(entry.data)
        else:
            _write_out(entry, place / name)
