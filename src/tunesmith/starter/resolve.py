"""From `starter:NAME` to a path in the user's cache: there already, or fetched, verified and put there whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith import registry
from tunesmith.errors import InputError
from tunesmith.quantity import format_bytes
from tunesmith.starter.archive import extract, verify
from tunesmith.starter.download import download
from tunesmith.starter.pins import Pin, pins
from tunesmith.watch import Progress, Quiet, Watch

PREFIX = "starter:"
_KINDS = {"model": "model", "data": "data set"}


def names(kind: str | None = None) -> list[str]:
    """Sorted names of the starters, with the prefix; of one kind ('model' or 'data') if given."""
    return sorted(PREFIX + pin.name for pin in pins().values() if kind in (None, pin.kind))


def note(name: str) -> str | None:
    """The sentence that every user of this starter is told, if it has one."""
    pin = pins().get(name.removeprefix(PREFIX))
    return pin.note if pin else None


def resolve_model(name: str, watch: Watch | None = None) -> Path:
    """The folder or `.gguf` file of a starter model, fetched on first use.

    Raises:
        UnknownName: If there is no such starter model.
        Offline: If it must be fetched and cannot be.
    """
    return _resolve(name, "model", watch or Quiet())


def resolve_data(name: str, watch: Watch | None = None) -> Path:
    """The file of a starter data set, fetched on first use.

    Raises:
        UnknownName: If there is no such starter data set.
        Offline: If it must be fetched and cannot be.
    """
    return _resolve(name, "data", watch or Quiet())


def _resolve(name: str, kind: str, watch: Watch) -> Path:
    """The path that a starter of this kind resolves to."""
    pin = pins().get(name.removeprefix(PREFIX))
    if pin is None:
        raise registry.unknown(f"starter {_KINDS[kind]}", name, names(kind))
    if pin.kind != kind:
        raise InputError(
            f"{PREFIX}{pin.name} is a {_KINDS[pin.kind]}, not a {_KINDS[kind]}. Choose {' or '.join(names(kind))}."
        )
    if pin.note:
        watch.say(pin.note)
    final = cache_folder() / "starter" / f"{pin.name}-{pin.version}-{pin.sha256[:8]}"
    if not final.is_dir():
        try:
            _fetch(pin, final, watch)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise InputError(
                f"Cannot write to the cache: {error}. Set TUNESMITH_CACHE to a folder that you may write to."
            ) from None
    return final / pin.result


def cache_folder() -> Path:
    """Where downloads are kept: the folder in TUNESMITH_CACHE, or ~/.cache/tunesmith."""
    return Path(os.environ.get("TUNESMITH_CACHE") or "~/.cache/tunesmith").expanduser().absolute()


def _fetch(pin: Pin, final: Path, watch: Watch) -> None:
    """Download, verify and unpack beside `final`, then rename: it is there whole or not at all."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with _lock(final.parent / f".{final.name}.lock", pin, watch):
        if final.is_dir():
            return
        for left in final.parent.glob(f".{final.name}.partial*"):
            shutil.rmtree(left)
        partial = final.parent / f".{final.name}.partial"
        partial.mkdir()
        try:
            watch.say(f"fetching {PREFIX}{pin.name}: {pin.about}, {format_bytes(pin.size_bytes)}, once")
            archive = download(pin, partial, lambda done: _tell(pin, done, watch))
            verify(archive, pin)
            unpacked = partial / "unpacked"
            unpacked.mkdir()
            extract(archive, pin, unpacked)
            unpacked.rename(final)
            _tell(pin, pin.size_bytes, watch)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _tell(pin: Pin, done_bytes: int, watch: Watch) -> None:
    """Report how much of the file has arrived."""
    watch.progress(Progress(phase=f"fetching {PREFIX}{pin.name}", done=done_bytes, total=pin.size_bytes, unit="bytes"))


@contextmanager
def _lock(path: Path, pin: Pin, watch: Watch) -> Iterator[None]:
    """Hold the lock of one starter; another process that fetches it is waited for."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            watch.say(f"another process is fetching {PREFIX}{pin.name}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
