"""Checkpoints of a run: one folder each, whole or absent, verified when read, the older one as a fallback.

    checkpoints/step-00000120/   NAME.safetensors ...   state.json   MANIFEST.json

The manifest is written last and holds the SHA-256 and size of every other file, the step, and its own SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tunesmith.durable import discard_leftovers, flush_folder, retire, whole_folder
from tunesmith.errors import ModelError, RunError
from tunesmith.model.safe_files import read_json, read_tensors
from tunesmith.tensor_file import Written, json_bytes, num_bytes_of, write_bytes, write_tensors

SCHEMA_VERSION = 1
NUM_KEPT = 2
MANIFEST = "MANIFEST.json"
STATE = "state.json"
MAX_STATE_BYTES = 256_000_000
_PATTERN = "step-*"
_DIGEST_LENGTH = 64
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that verified."""

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    """Tensors by file and name."""
    state: dict[str, object]
    notes: list[str] = field(default_factory=list)
    """What was found damaged or half-written on the way to it, in sentences for the user."""


class _DamagedError(Exception):
    """A checkpoint does not verify; the text says what is wrong."""


def write(
    parent: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, object],
    *,
    best_step: int | None = None,
) -> Path:
    """Save a checkpoint and remove all but the newest two and the best.

    When this returns, the checkpoint survives a power cut. A checkpoint of the same step is replaced.

    Args:
        parent: The run's folder of checkpoints.
        step: Optimizer steps done.
        tensors: Tensors by file (a name without ending) and name.
        state: Everything else, as plain JSON values.
        best_step: The step whose checkpoint is kept however old it is.

    Raises:
        DiskFull: If there is too little room; the checkpoints before are untouched.
        RunError: If the folder cannot be written for another reason.
    """
    place = parent / f"step-{step:08d}"
    state_bytes = json_bytes(state)
    needed_bytes = sum(num_bytes_of(group) for group in tensors.values()) + len(state_bytes)
    discard_leftovers(parent, _PATTERN)
    with whole_folder(place, needed_bytes) as folder:
        written = {
            f"{stem}.safetensors": write_tensors(folder / f"{stem}.safetensors", group) for stem, group in tensors.items()
        }
        written[STATE] = write_bytes(folder / STATE, [state_bytes])
        write_bytes(folder / MANIFEST, [_manifest(step, written)])
    _prune(parent, best_step)
    return place


def latest(parent: Path, *, repair: bool = True) -> Loaded | None:
    """The newest checkpoint that verifies, or None if there is none.

    Args:
        parent: The run's folder of checkpoints.
        repair: Rename damaged checkpoints to `*.corrupt` and remove half-written ones. Only the process that holds
            the run's lock may; others read with `repair=False`.
    """
    notes = [f"{path.name} was never finished; removed." for path in discard_leftovers(parent, _PATTERN)] if repair else []
    for step in reversed(steps(parent)):
        try:
            found = load(parent, step)
        except RunError as error:
            notes.append(str(error))
            if repair:
                notes[-1] += f" Set aside as {_quarantine(parent / f'step-{step:08d}').name}; going back to the one before."
            continue
        return Loaded(found.path, found.step, found.tensors, found.state, notes)
    return None


def load(parent: Path, step: int) -> Loaded:
    """The checkpoint of one step, e.g. the best.

    Raises:
        RunError: If it is missing or does not verify.
    """
    folder = parent / f"step-{step:08d}"
    try:
        names = _verify(folder, step)
        tensors = {name.removesuffix(".safetensors"): read_tensors(folder / name) for name in names if name != STATE}
        return Loaded(folder, step, tensors, read_json(folder / STATE, max_bytes=MAX_STATE_BYTES))
    except (_DamagedError, ModelError) as error:
        raise RunError(f"The checkpoint {folder} is damaged: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise RunError(f"The checkpoint {folder} is damaged: {MANIFEST} does not describe a checkpoint.") from None
    except OSError as error:
        raise RunError(f"The checkpoint {folder} cannot be read: {error.strerror}.") from None


def steps(parent: Path) -> list[int]:
    """The steps that have a checkpoint, ascending; none of them is verified."""
    matches = [_NAME.fullmatch(path.name) for path in parent.glob(_PATTERN)]
    return sorted(int(match[1]) for match in matches if match)


def _manifest(step: int, written: Mapping[str, Written]) -> bytes:
    """The manifest's one and only spelling, so that any changed bit in it shows."""
    files = {name: {"sha256": facts.sha256, "bytes": facts.num_bytes} for name, facts in sorted(written.items())}
    return _signed(json.dumps({"schema_version": SCHEMA_VERSION, "step": step, "files": files}, indent=1).encode())


def _verify(folder: Path, step: int) -> list[str]:
    """The files of a checkpoint, each compared with the manifest in size and content."""
    manifest = _read_manifest(folder / MANIFEST)
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise _DamagedError(f"it has schema version {manifest['schema_version']}, this tunesmith reads {SCHEMA_VERSION}.")
    if manifest["step"] != step:
        raise _DamagedError(f"its manifest belongs to step {manifest['step']}.")
    for name, facts in manifest["files"].items():
        path = folder / name
        if name != path.name or not path.is_file():
            raise _DamagedError(f"{name} is missing.")
        if path.stat().st_size != facts["bytes"]:
            raise _DamagedError(f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}.")
        if _digest(path) != facts["sha256"]:
            raise _DamagedError(f"{name} was changed.")
    return list(manifest["files"])


def _read_manifest(path: Path) -> Any:
    """A manifest that is spelled as `_manifest` spells it."""
    if not path.is_file():
        raise _DamagedError(f"it has no {MANIFEST}.")
    raw = path.read_bytes()
    body = raw[: -_DIGEST_LENGTH - 2]
    if raw != _signed(body):
        raise _DamagedError(f"{MANIFEST} was changed.")
    return json.loads(body)


def _signed(body: bytes) -> bytes:
    return b"%s\n%s\n" % (body, hashlib.sha256(body).hexdigest().encode())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _quarantine(folder: Path) -> Path:
    """Set a damaged checkpoint aside under a free name."""
    places = (folder.with_name(f"{folder.name}.corrupt{'' if n == 0 else f'-{n}'}") for n in range(1000))
    place = next(path for path in places if not path.exists())
    folder.rename(place)
    flush_folder(folder.parent)
    return place


def _prune(parent: Path, best_step: int | None) -> None:
    """Remove all checkpoints but the newest two and the best."""
    for step in steps(parent)[:-NUM_KEPT]:
        if step != best_step:
            retire(parent / f"step-{step:08d}")
