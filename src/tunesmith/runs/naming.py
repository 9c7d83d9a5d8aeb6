"""Names for new run folders: `runs/DATA-MODEL-METHOD-N`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tunesmith.settings import DEFAULT_METHOD, FitSettings

RUNS = Path("runs")
_MAX_PART_LENGTH = 40


def new_run(settings: FitSettings) -> str:
    """The first free run folder `runs/DATA-MODEL-METHOD-N`."""
    return new_runs([settings])[0]


def new_runs(settings: Sequence[FitSettings]) -> list[str]:
    """A free run folder for each of several runs."""
    taken: list[str] = []
    for chosen in settings:
        taken.append(_free(chosen, taken))
    return taken


def _free(settings: FitSettings, taken: Sequence[str]) -> str:
    sources = settings.data.data
    data = _part(sources[0] if sources else "data") + (f"-and-{len(sources) - 1}-more" if len(sources) > 1 else "")
    name = f"{data}-{_part(settings.model)}-{_part(str(settings.method.get('name', DEFAULT_METHOD)))}"
    number = 1
    while (RUNS / f"{name}-{number}").exists() or str(RUNS / f"{name}-{number}") in taken:
        number += 1
    return str(RUNS / f"{name}-{number}")


def _part(text: str) -> str:
    """A path, hub id or starter name as a short part of a folder name."""
    last = text.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1].removeprefix("starter:")
    stem = re.sub(r"(\.(jsonl|json|csv|tsv|parquet|txt|gguf|gz))+$", "", last, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._]+", "-", stem)[:_MAX_PART_LENGTH].strip("-.") or "data"
