"""Prepared data as files: arrays in `rows.safetensors`, which is mapped, not read, and everything else in `prepared.json`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith import tensor_file
from tunesmith.data.columns import ChosenExamples, ExampleColumns
from tunesmith.data.prepared import Part, PreparedData
from tunesmith.data.raw import Skipped
from tunesmith.data.table import TokenTable
from tunesmith.errors import ModelError
from tunesmith.model import safe_files

ROWS, FACTS = "rows.safetensors", "prepared.json"
MAX_FACTS_BYTES = 64_000_000
PARTS = ("train", "validation", "test")
_PLAIN = ("task", "shape", "description", "warnings", "labels", "fingerprint", "fingerprints", "name", "max_length", "template")
_COLUMNS = ("text", "ends", "rows", "codes")
_TYPES = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I32": "int32", "I64": "int64"}


class Damaged(Exception):
    """An entry is not what was written; the message says why in a few words."""


def size_of(data: PreparedData) -> int:
    """Bytes of the files that `write_entry` would write, about."""
    return sum(array.nbytes for array in _arrays(data)[0].values()) + len(json.dumps(_facts(data))) + 10_000


def write_entry(folder: Path, data: PreparedData) -> None:
    """Write both files into an empty folder.

    Raises:
        OSError: If they cannot be written.
    """
    arrays, sets = _arrays(data)
    written = tensor_file.write_tensors(folder / ROWS, {name: torch.from_numpy(array) for name, array in arrays.items()})
    content = json.dumps({**_facts(data), "sets": sets, "rows_sha256": written.sha256})
    wrapped = {"sha256": hashlib.sha256(content.encode()).hexdigest(), "content": content}
    tensor_file.write_bytes(folder / FACTS, [tensor_file.json_bytes(wrapped)])


def read_entry(folder: Path) -> PreparedData:
    """The data of an entry; its arrays stay on the disk until they are looked at, and cannot be written to.

    Raises:
        Damaged: If it is not what was written.
        OSError: If it is no longer there.
    """
    try:
        wrapped = safe_files.read_json(folder / FACTS, max_bytes=MAX_FACTS_BYTES)
        content = str(wrapped["content"])
        if hashlib.sha256(content.encode()).hexdigest() != wrapped["sha256"]:
            raise Damaged(f"{FACTS} was changed")
        facts = json.loads(content)
        with (folder / ROWS).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != facts["rows_sha256"]:
                raise Damaged(f"{ROWS} was changed")
        return _data(facts, _mapped(folder / ROWS))
    except (ModelError, LookupError, TypeError, ValueError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from None


def _arrays(data: PreparedData) -> tuple[dict[str, NDArray[Any]], list[dict[str, object]]]:
    """All arrays by name, and what else is to be known of the sets of examples that the parts are chosen from."""
    arrays: dict[str, NDArray[Any]] = {}
    sets: list[ExampleColumns] = []
    for name, part in zip(PARTS, (data.train, data.validation, data.test), strict=True):
        if not any(part.examples.examples is known for known in sets):
            sets.append(cast("ExampleColumns", part.examples.examples))
        number = next(i for i, known in enumerate(sets) if part.examples.examples is known)
        arrays |= {f"{name}.set": np.array([number]), f"{name}.chosen": part.examples.chosen, f"{name}.origins": part.origins}
        for column in fields(TokenTable):
            if isinstance(array := getattr(part.tokens, column.name), np.ndarray):
                arrays[f"{name}.tokens.{column.name}"] = array
    for number, columns in enumerate(sets):
        arrays |= {f"set{number}.{name}": getattr(columns, name) for name in _COLUMNS}
    arrays["skipped"] = np.array([item.row for item in data.skipped], dtype=np.int64)
    return arrays, [{"task": columns.task, "names": columns.names} for columns in sets]


def _facts(data: PreparedData) -> dict[str, Any]:
    """What is no array."""
    reasons = {reason: place for place, reason in enumerate(dict.fromkeys(item.reason for item in data.skipped))}
    return {
        **{name: getattr(data, name) for name in _PLAIN},
        "labels_per_row": data.train.tokens.labels_per_row,
        "reasons": list(reasons),
        "reason_of": [reasons[item.reason] for item in data.skipped],
    }


def _data(facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> PreparedData:
    """The way back of `_arrays` and `_facts`."""
    sets = []
    for number, own in enumerate(facts["sets"]):
        text, ends, rows, codes = (arrays[f"set{number}.{name}"] for name in _COLUMNS)
        sets.append(ExampleColumns(own["task"], text, ends, rows, codes, tuple(own["names"])))
    parts = {}
    for name in PARTS:
        columns = {c.name: arrays.get(f"{name}.tokens.{c.name}") for c in fields(TokenTable) if c.name != "labels_per_row"}
        parts[name] = Part(
            examples=ChosenExamples(sets[int(arrays[f"{name}.set"][0])], arrays[f"{name}.chosen"]),
            tokens=TokenTable(**cast("Any", columns), labels_per_row=facts["labels_per_row"]),
            origins=arrays[f"{name}.origins"],
        )
    rows = zip(arrays["skipped"].tolist(), facts["reason_of"], strict=True)
    skipped = [Skipped(row, facts["reasons"][place]) for row, place in rows]
    plain = {name: facts[name] for name in _PLAIN} | {name: tuple(facts[name]) for name in ("labels", "fingerprints")}
    return PreparedData(**plain, **parts, skipped=skipped)


def _mapped(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, mapped into memory."""
    header = safe_files.tensor_header(path)
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    content = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    return {
        name: content[start + facts.begin : start + facts.end].view(_TYPES[facts.dtype]).reshape(facts.shape)
        for name, facts in header.items()
    }
