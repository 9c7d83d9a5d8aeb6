"""Files and folders that exist whole or not at all, whatever happens while they are written.

A folder is written beside its place as `NAME.tmp-PID`, every file is flushed to the disk, then the folder is renamed
into place and the rename is flushed. A crash leaves the old folder, or the new one, and perhaps a temporary one that
`discard_leftovers` removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tunesmith.errors import DiskFull, RunError
from tunesmith.quantity import format_bytes

_TEMPORARY = ".tmp-"
_REPLACED = ".replaced-"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SPARE_BYTES = 1_000_000
"""For headers, folder entries and the blocks that files do not fill."""


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file such that its place holds what was there before or all of `content`, never a part of it.

    Raises:
        OSError: If it cannot be written; what was there before is untouched.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        _flush(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def temporary_name(name: str) -> str:
    """What a file is called while it is written."""
    return f".{name}.tmp"


@contextlib.contextmanager
def whole_folder(place: Path, needed_bytes: int) -> Iterator[Path]:
    """An empty folder to fill, which appears at `place` when the block ends, and vanishes if the block fails.

    Args:
        place: Where the folder shall be; what is there already is replaced.
        needed_bytes: Size of what will be written, checked against the free room before and named if it runs out.

    Raises:
        DiskFull: If the room is too little; nothing is left behind.
        RunError: If the folder cannot be written for another reason.
    """
    temporary = place.with_name(f"{place.name}{_TEMPORARY}{os.getpid()}")
    try:
        _make_folder(place.parent)
        require_room(place, needed_bytes)
        remove(temporary)
        temporary.mkdir()
        yield temporary
        flush_tree(temporary)
        _put_in_place(temporary, place)
    except OSError as error:
        remove(temporary)
        if error.errno in _NO_ROOM:
            raise disk_full(place, needed_bytes) from error
        raise RunError(
            f"{place} cannot be written: {error.strerror or error}. Check the folder's owner and permissions."
        ) from error
    except BaseException:
        remove(temporary)
        raise


def _make_folder(folder: Path) -> None:
    """Create a folder and those above it, and make their names reach the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        flush_folder(path.parent)


def _put_in_place(temporary: Path, place: Path) -> None:
    """Rename into place; a folder already there steps aside first, and `discard_leftovers` puts it back after a crash."""
    aside = place.with_name(f"{place.name}{_REPLACED}{os.getpid()}")
    if place.exists():
        remove(aside)
        place.rename(aside)
    temporary.rename(place)
    flush_folder(place.parent)
    remove(aside)


def discard_leftovers(parent: Path, pattern: str = "*") -> list[Path]:
    """Remove what crashed writers left in `parent`, and say what; only for the process that holds the run's lock."""
    for aside in parent.glob(f"{pattern}{_REPLACED}*"):
        place = aside.with_name(aside.name.split(_REPLACED)[0])
        if place.exists():
            remove(aside)
        else:
            aside.rename(place)
    temporary = sorted(parent.glob(f"{pattern}{_TEMPORARY}*"))
    for folder in temporary:
        remove(folder)
    return temporary


def retire(folder: Path) -> None:
    """Remove a complete folder such that a crash on the way leaves no half of it under its own name."""
    doomed = folder.with_name(f"{folder.name}{_TEMPORARY}{os.getpid()}")
    remove(doomed)
    folder.rename(doomed)
    remove(doomed)


def remove(folder: Path) -> None:
    """Remove a folder with all it holds, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def flush_tree(folder: Path) -> None:
    """Make every file and folder below `folder` reach the disk."""
    for path, _, names in os.walk(folder):
        for name in names:
            _flush(Path(path) / name)
        _flush(Path(path))


def flush_folder(folder: Path) -> None:
    """Make the names in `folder` reach the disk: what was created, renamed or removed."""
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_room(place: Path, needed_bytes: int) -> None:
    """Check, before anything is written, that the disk has room.

    Raises:
        DiskFull: If it has not; the message names the place, the bytes needed and the bytes free.
    """
    if _free_bytes(place) < needed_bytes + _SPARE_BYTES:
        raise disk_full(place, needed_bytes)


def disk_full(place: Path, needed_bytes: int) -> DiskFull:
    """An error that names the place, the bytes needed and the bytes free, and says what to do."""
    free = _free_bytes(place)
    return DiskFull(
        f"No room to write {place}: it needs {format_bytes(needed_bytes)} ({needed_bytes} bytes), {format_bytes(free)} "
        f"({free} bytes) are free. What was saved before is untouched. Make room and go on."
    )


def _free_bytes(place: Path) -> int:
    existing = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free
