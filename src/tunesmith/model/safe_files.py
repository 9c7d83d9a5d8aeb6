"""Reads files that somebody else made, and runs nothing that they carry.

All rules stand in this one module, so that they can be audited at one sitting:

- Weights come from safetensors only. The header is checked before a byte of it is mapped: its size, the number of
  tensors, their types and shapes, that offsets leave no gap and no overlap and end where the file ends.
- JSON is read up to a size, with every key once.
- A configuration that asks for code is refused: keys that name Python files, hub kernels or attention code, and
  values that look like a repository, an address or a path. Python files beside a model are never imported. Only an
  `auto_map` that is not needed, because the library has code of its own for the model, is passed over.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
import stat
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 8_000_000
MAX_TENSORS = 100_000
MAX_JSON_BYTES = 8_000_000
MAX_DIMENSIONS = 16

_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_BITS |= {
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}

_TORCH_TYPES = {"BOOL": "bool", "U8": "uint8", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "BF16": "bfloat16"}
_TORCH_TYPES |= {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "float") for bits in (16, 32, 64)}
_TORCH_TYPES |= {"I8": "int8"}

AUTO_MAP = "auto_map"
_ASKS_FOR_CODE = (AUTO_MAP, "trust_remote_code", "custom_pipelines", "custom_generate")
_NAMES_CODE = (
    "*_attn_implementation*",
    "attn_implementation",
    "*_experts_implementation*",
    "experts_implementation",
    "*kernel*",
)
_BUILT_IN = ("eager", "sdpa")
_DESCRIPTIONS = ("_name_or_path", "name_or_path", "model_name", "model_name_or_path", "base_model", "uri", "license")
_DESCRIPTIONS += ("id2label", "label2id", "finetuning_task")
"""Keys whose text nothing acts upon; they may hold what looks like a repository."""
_LOCATION = re.compile(r"[\w.-]+/[\w.-]+([@:].*)?|.*://.*|[/~\\].*|.*\.\.[/\\].*|.*\.py", re.DOTALL)


@dataclass(frozen=True)
class TensorFacts:
    """What a safetensors header says about one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def tensor_header(path: Path) -> dict[str, TensorFacts]:
    """What tensors a safetensors file holds, from its header alone; nothing is mapped, no tensor is read.

    Raises:
        ModelError: If it is not a regular file, not safetensors, too large in its header, or inconsistent.
    """
    size = _regular_size(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length < 2 or length > size - 8:
            raise ModelError(f"{path} is not a safetensors file, or was cut off ({size} bytes). Get it again.")
        if length > MAX_HEADER_BYTES:
            raise ModelError(f"{path} has a header of {length} bytes; {MAX_HEADER_BYTES} are allowed. Refused.")
        raw = file.read(length)
    header = _parse(raw, path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ModelError(f"{path}: its metadata is not a table of texts. Refused.")
    if len(header) > MAX_TENSORS:
        raise ModelError(f"{path} names {len(header)} tensors; {MAX_TENSORS} are allowed. Refused.")
    tensors = {name: _tensor_facts(path, name, entry) for name, entry in header.items()}
    end = 0
    for name, facts in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if facts.begin != end:
            raise ModelError(
                f"{path}: tensor {shown(name)} begins at byte {facts.begin}, expected {end}: a gap or an overlap. Refused."
            )
        end = facts.end
    if 8 + length + end != size:
        raise ModelError(
            f"{path} has {size} bytes, its tensors end at {8 + length + end}. It was cut off or carries something else."
        )
    return tensors


def _tensor_facts(path: Path, name: str, entry: object) -> TensorFacts:
    """One entry of a header, checked."""
    where = f"{path}: tensor {shown(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{where} is not described by dtype, shape and data_offsets. Refused.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ModelError(f"{where} has the unknown type {shown(dtype)}.")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS or not _are_sizes(offsets) or len(offsets) != 2:
        raise ModelError(f"{where} has the impossible shape {shown(shape)} or offsets {shown(offsets)}. Refused.")
    begin, end = offsets
    if math.prod(shape) * _BITS[dtype] != (end - begin) * 8:
        raise ModelError(f"{where}: shape {shown(shape)} of {dtype} does not fill the bytes {begin} to {end}. Refused.")
    return TensorFacts(dtype, tuple(shape), begin, end)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def read_tensors(path: Path, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file (those in `names`, or all), mapped from disk after its header was checked.

    Raises:
        ModelError: If the file breaks a rule of this module.
    """
    header = tensor_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in (header if names is None else names)}
    except SafetensorError as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}.") from None


def read_tensor(path: Path, facts: TensorFacts) -> Tensor:
    """A tensor that `tensor_header` has found, read into memory of its own instead of mapped.

    Raises:
        ModelError: If it is of a type that torch has not, or the file has become shorter.
    """
    import torch

    if facts.dtype not in _TORCH_TYPES:
        raise ModelError(f"{path} has a tensor of the type {facts.dtype}, which cannot be read here.")
    tensor = torch.empty(facts.end - facts.begin, dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        file.seek(8 + int.from_bytes(file.read(8), "little") + facts.begin)
        room, done = memoryview(tensor.numpy()), 0  # pyright: ignore[reportArgumentType]
        while done < len(room) and (count := file.readinto(room[done:])):
            done += count
    if done < len(room):
        raise ModelError(f"{path} has become shorter while it was read. Get it again.")
    return tensor.view(getattr(torch, _TORCH_TYPES[facts.dtype])).view(facts.shape)


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """The object in a JSON file of at most `max_bytes`, each key once.

    Raises:
        ModelError: If the file is missing, too large, not JSON, not an object, or repeats a key.
    """
    size = _regular_size(path)
    if size > max_bytes:
        raise ModelError(f"{path} has {size} bytes; {max_bytes} are allowed for such a file. Refused.")
    return _parse(path.read_bytes(), path)


def read_config(path: Path, *, is_known: Callable[[Mapping[str, object]], bool] = lambda config: False) -> dict[str, object]:
    """A configuration file that asks for no code, or for none that is needed.

    Args:
        path: The file.
        is_known: Whether the library has code of its own for a configuration, so that its `auto_map` is not needed.

    Raises:
        ModelError: If it breaks a rule; the key is named.
    """
    config = read_json(path)
    try:
        needless = AUTO_MAP in config and is_known(config)
        _refuse_code({key: value for key, value in config.items() if key != AUTO_MAP} if needless else config, path, "")
    except RecursionError:
        raise ModelError(f"{path} nests its tables too deeply. Refused.") from None
    return config


def _refuse_code(table: Mapping[str, object], path: Path, prefix: str) -> None:
    """Walk through all tables of a configuration and stop at the first key or value that leads to code."""
    is_tokenizer = path.name == "tokenizer_config.json"  # its tokens may look like anything, and its paths are not followed
    for key, value in table.items():
        where = f"{path}: {shown(prefix + key)}"
        if key in _ASKS_FOR_CODE and value:
            raise ModelError(
                f"{where} asks for Python code that comes with the model, and transformers has none of its own for it. "
                "tunesmith runs no code of a model: use one that transformers knows."
            )
        names_code = any(fnmatch.fnmatchcase(key, pattern) for pattern in _NAMES_CODE)
        for text in _texts(value):
            if names_code and text not in _BUILT_IN:
                raise ModelError(
                    f"{where} chooses the code to compute with ({shown(text)}). Delete the key: tunesmith chooses."
                )
            if key not in _DESCRIPTIONS and not is_tokenizer and len(text) < 1000 and _LOCATION.fullmatch(text):
                raise ModelError(f"{where} points to {shown(text)}, outside of the model's files. Delete the key.")
        for inner in _tables(value) if key not in _DESCRIPTIONS else ():
            _refuse_code(inner, path, f"{prefix}{key}.")


def _texts(value: object) -> list[str]:
    """A text, or those directly in a list; lists in lists hold sizes, and are searched too."""
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _tables(value: object) -> list[dict[str, object]]:
    if isinstance(value, list):
        return [table for item in value for table in _tables(item)]
    return [value] if isinstance(value, dict) else []


def _regular_size(path: Path) -> int:
    """Size in bytes of an ordinary file; a pipe or a device would block or never end."""
    try:
        facts = path.stat()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(facts.st_mode):
        raise ModelError(f"{path} is not an ordinary file. Refused.")
    return facts.st_size


def _parse(raw: bytes, path: Path) -> dict[str, object]:
    """A JSON object from bytes, each key once."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        table = dict(pairs)
        if len(table) != len(pairs):
            repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise ModelError(f"{path} has the key {shown(repeated)} twice. Refused.")
        return table

    try:
        value = json.loads(raw.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {shown(str(error))}.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__} where a JSON object is expected.")
    return value


def shown(value: object) -> str:
    """A foreign value as it may stand in a message: without control characters, and short."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
