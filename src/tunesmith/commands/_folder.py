"""Finds run folders: by path, or by name in ./runs."""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path

from tunesmith.errors import RunError
from tunesmith.reports.result import FILE_NAME
from tunesmith.runs.naming import RUNS


def find_run(text: str) -> Path:
    """The run folder that a path, or the name of a folder in ./runs, means.

    Raises:
        RunError: If there is no such folder or it holds no run; the nearest name is given.
    """
    with contextlib.suppress(OSError, ValueError):  # too long for a path, or none at all
        for folder in (Path(text), RUNS / text):
            if (folder / FILE_NAME).is_file():
                return folder
        if Path(text).is_dir():
            raise RunError(f"{text} is not a run folder: it has no {FILE_NAME}. `tunesmith runs` lists the runs in ./runs.")
    known = [folder.name for folder in run_folders(RUNS)]
    near = difflib.get_close_matches(Path(text).name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {RUNS / near[0]}?" if near else ""
    raise RunError(f"There is no run folder {text[:200]!r}.{hint} `tunesmith runs` lists the runs in ./runs.")


def run_folders(parent: Path) -> list[Path]:
    """All run folders directly in `parent`, the newest last; none if there is no such folder."""
    if not parent.is_dir():
        return []
    found = [folder for folder in parent.iterdir() if (folder / FILE_NAME).is_file()]
    return sorted(found, key=lambda folder: (folder / FILE_NAME).stat().st_mtime)
