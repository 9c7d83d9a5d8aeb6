"""Small archives made in the test, and pins of them."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile

from tunesmith.starter.pins import Pin

RATINGS = "1\t2.5\tA splendid film.\r\n2\t0\tA film.\r\n3\t-0.5\tDull,\u2028 and long.\r\n4\t0.1\t Fine. "


def tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pin_for(content: bytes, **changes: object) -> Pin:
    facts = {
        "name": "toy",
        "kind": "model",
        "about": "a toy",
        "package": "toy",
        "version": "1.0",
        "archive": "toy-1.0-py3-none-any.whl",
        "members": {"toy/model/config.json": "model/config.json"},
        "result": "model",
    }
    facts |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content), **changes}
    return Pin(**facts)  # type: ignore[arg-type]
