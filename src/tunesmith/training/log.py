"""The only writer of `metrics.jsonl`: one line a step, evaluation or event."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tunesmith import durable

FILE_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends lines to a run's metrics; each is whole on disk when the call returns."""

    def __init__(self, folder: Path, *, resume_from: int | None = None) -> None:
        """Open the log; with `resume_from`, lines of later steps, which a crash undid, are dropped."""
        self._path = folder / FILE_NAME
        self._before: frozenset[str] = frozenset()
        if resume_from is not None and self._path.exists():
            lines = self._path.read_text("utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= resume_from]
            self._before = frozenset(line for line in kept if '"kind": "step"' not in line)
            durable.write_file(self._path, "".join(f"{line}\n" for line in kept))
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        """What one optimizer step measured."""
        self._write({"kind": "step", "step": step, **_finite(numbers)})

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """What an evaluation after `step` steps gave."""
        self._write({"kind": "evaluation", "step": step, "metrics": _finite(metrics)})

    def event(self, step: int, message: str) -> None:
        """Something worth knowing that happened after `step` steps."""
        self._write({"kind": "event", "step": step, "message": message})

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def _write(self, record: Mapping[str, object]) -> None:
        line = json.dumps(record)
        if line not in self._before:  # said just before the crash, of the very step that is gone on from
            os.write(self._file, f"{line}\n".encode())


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """The numbers with None for NaN and infinities, which JSON does not have."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _step_of(line: str) -> float:
    """The step of a line; infinity where the line is torn."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
