"""Reads files that somebody else made, and runs nothing that they carry.

All rules stand in this one module, so that they can be audited at one sitting:

- Weights come from safetensors only. The header is checked before a byte of it is mapped: its size, the number of
  tensors, their types and shapes, that offsets leave no gap and no overlap and end where the file ends.
- JSON is read up to a size, with every key once.
- A configuration that asks for code is refused: keys that name Python files, hub kernels or attention code, and
  values that look like a repository, an address or a path. Python files beside a model are never imported.
- A model that exists as pickles only is refused, with the safe way to convert it.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
import stat
from collections.abc import Collection, Mapping
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
MAX_INDEX_BYTES = 64_000_000
"""Above the largest index of shards in use (about 10 MB)."""
MAX_DIMENSIONS = 16

_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_BITS |= {"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64}

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.mdl", "*.joblib", "*.msgpack", "*.h5")
_ASKS_FOR_CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate")
_NAMES_CODE = ("*_attn_implementation*", "attn_implementation", "*_experts_implementation*", "experts_implementation", "*kernel*")
_BUILT_IN = ("eager", "sdpa")
_DESCRIPTIONS = ("_name_or_path", "name_or_path", "model_name", "base_model", "id2label", "label2id", "finetuning_task")
"""Keys whose text nothing acts upon; they may hold what looks like a repository."""
_LOCATION = re.compile(r"[\w.-]+/[\w.-]+([@:].*)?|.*://.*|[/~\\].*|.*\.\.[/\\].*|.*\.py", re.DOTALL)


@dataclass(frozen=True)
class TensorFacts:
    """What a safetensors header says about one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class ModelFiles:
    """A model folder that was looked through and found safe to load."""

    config: dict[str, object]
    weights: dict[Path, dict[str, TensorFacts]]
    """The headers of its safetensors files."""

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(facts.end - facts.begin for header in self.weights.values() for facts in header.values())


def check_model_folder(folder: Path) -> ModelFiles:
    """The configuration and weight headers of a transformers folder, all rules of this module kept.

    Raises:
        ModelError: If it is no model folder, has no weights, has pickles only, or a file breaks a rule.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no model folder {folder}.")
    if not (folder / "config.json").exists():
        adapter = (folder / "adapter_config.json").exists()
        advice = "It is an adapter: name the base model that it belongs to." if adapter else "Is it the right folder?"
        raise ModelError(f"{folder} is not a model folder: it has no config.json. {advice}")
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder} holds a model and an adapter (adapter_config.json) at once. Move the adapter to a folder of its own.")
    config = read_config(folder / "config.json")
    for path in sorted(folder.glob("*config*.json")):
        read_config(path)
    return ModelFiles(config, {path: tensor_header(path) for path in _weight_files(folder, config)})


def _weight_files(folder: Path, config: Mapping[str, object]) -> list[Path]:
    """The safetensors files of a model folder: one, or those that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        raise ModelError(_no_weights(folder, config))
    weight_map = read_json(index, max_bytes=MAX_INDEX_BYTES).get("weight_map")
    names = set(weight_map.values()) if _is_text_map(weight_map) else set()
    for name in names:
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise ModelError(f"{index} names the file {_shown(name)}, which is not a safetensors file in the same folder. Refused.")
        if not (folder / name).exists():
            raise ModelError(f"{folder} lacks {name}, which its index names. The download is incomplete: get the model again.")
    if not names:
        raise ModelError(f"{index} has no 'weight_map' from tensors to files. Get the model again.")
    return sorted(folder / name for name in names)


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _no_weights(folder: Path, config: Mapping[str, object]) -> str:
    """Why a model folder cannot be loaded, and what to do."""
    files = sorted(p.name for p in folder.iterdir() if p.is_file())
    pickles = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in _PICKLES)]
    if not pickles:
        return f"{folder} has no weights: expected model.safetensors or model.safetensors.index.json, found {', '.join(files)[:300]}."
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    name = first if isinstance(first, str) and first.isidentifier() else "AutoModel"
    return (
        f"{folder} has its weights only as {', '.join(pickles)[:200]}. Such a file can run any code when it is opened, so it is not "
        "read here. Look for a revision of the model with model.safetensors. Or convert it once, in a container without network and "
        f"without your files: python -c \"import transformers as t; t.{name}.from_pretrained('OLD').save_pretrained('NEW')\""
    )


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
    if not _is_text_map(metadata):
        raise ModelError(f"{path}: its metadata is not a table of texts. Refused.")
    if len(header) > MAX_TENSORS:
        raise ModelError(f"{path} names {len(header)} tensors; {MAX_TENSORS} are allowed. Refused.")
    tensors = {name: _tensor_facts(path, name, entry) for name, entry in header.items()}
    end = 0
    for name, facts in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if facts.begin != end:
            raise ModelError(f"{path}: tensor {_shown(name)} begins at byte {facts.begin}, expected {end}: a gap or an overlap. Refused.")
        end = facts.end
    if 8 + length + end != size:
        raise ModelError(f"{path} has {size} bytes, its tensors end at {8 + length + end}. It was cut off or carries something else.")
    return tensors


def _tensor_facts(path: Path, name: str, entry: object) -> TensorFacts:
    """One entry of a header, checked."""
    where = f"{path}: tensor {_shown(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{where} is not described by dtype, shape and data_offsets. Refused.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ModelError(f"{where} has the unknown type {_shown(dtype)}.")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS or not _are_sizes(offsets) or len(offsets) != 2:
        raise ModelError(f"{where} has the impossible shape {_shown(shape)} or offsets {_shown(offsets)}. Refused.")
    begin, end = offsets
    if math.prod(shape) * _BITS[dtype] != (end - begin) * 8:
        raise ModelError(f"{where}: shape {_shown(shape)} of {dtype} does not fill the bytes {begin} to {end}. Refused.")
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


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """The object in a JSON file of at most `max_bytes`, each key once.

    Raises:
        ModelError: If the file is missing, too large, not JSON, not an object, or repeats a key.
    """
    size = _regular_size(path)
    if size > max_bytes:
        raise ModelError(f"{path} has {size} bytes; {max_bytes} are allowed for such a file. Refused.")
    return _parse(path.read_bytes(), path)


def read_config(path: Path) -> dict[str, object]:
    """A configuration file that asks for no code.

    Raises:
        ModelError: If it breaks a rule; the key is named.
    """
    config = read_json(path)
    _refuse_code(config, path, "")
    return config


def _refuse_code(table: Mapping[str, object], path: Path, prefix: str) -> None:
    """Walk through all tables of a configuration and stop at the first key or value that leads to code."""
    for key, value in table.items():
        where = f"{path}: {_shown(prefix + key)}"
        if key in _ASKS_FOR_CODE and value:
            raise ModelError(
                f"{where} asks for Python code that comes with the model. tunesmith runs none: use a model that transformers knows, "
                "or delete the key if you know that transformers' own code is the right one."
            )
        names_code = any(fnmatch.fnmatchcase(key, pattern) for pattern in _NAMES_CODE)
        for text in _texts(value):
            if names_code and text not in _BUILT_IN:
                raise ModelError(f"{where} chooses the code to compute with ({_shown(text)}). Delete the key: tunesmith chooses.")
            if key not in _DESCRIPTIONS and len(text) < 1000 and _LOCATION.fullmatch(text):
                raise ModelError(f"{where} points to {_shown(text)}, outside of the model's files. Delete the key.")
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
            repeated = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise ModelError(f"{path} has the key {_shown(repeated)} twice. Refused.")
        return table

    try:
        value = json.loads(raw, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {_shown(str(error))}.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__} where a JSON object is expected.")
    return value


def _shown(value: object) -> str:
    """A foreign value as it may stand in a message: without control characters, and short."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
