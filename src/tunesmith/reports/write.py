"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

from tunesmith.errors import DiskFull


def write_whole(path: Path, text: str) -> Path:
    """Write `text` to `path` by way of a temporary file beside it, and give the path.

    Raises:
        DiskFull: If there is no room; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFull(f"{path} needs {len(text.encode()):,} bytes and the disk is full. Make room and try again.") from None
    return path
