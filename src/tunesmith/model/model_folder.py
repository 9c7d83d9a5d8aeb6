"""Which files of a transformers folder are loaded, found safe before any of them is.

The rules for a single file are those of `safe_files`. Python files beside a model are never imported, and a model
whose weights exist as pickles only is refused, with the safe way to convert it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import ModelError
from tunesmith.model.safe_files import AUTO_MAP, TensorFacts, read_config, read_json, shown, tensor_header

MAX_INDEX_BYTES = 64_000_000
"""Above the largest index of shards in use (about 10 MB)."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.mdl", "*.joblib", "*.msgpack", "*.h5")
_OTHER_CONFIGS = ("generation_config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class ModelFiles:
    """A model folder that was looked through and found safe to load."""

    config: dict[str, object]
    weights: dict[Path, dict[str, TensorFacts]]
    """The headers of its safetensors files."""

    @property
    def brings_code(self) -> bool:
        """Whether it comes with Python code, which is not run: transformers has its own for such a model."""
        return AUTO_MAP in self.config

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(facts.end - facts.begin for header in self.weights.values() for facts in header.values())


def check_model_folder(folder: Path) -> ModelFiles:
    """The configuration and weight headers of a transformers folder, all rules of this module kept.

    Raises:
        ModelError: If it is no model folder, has no weights, has pickles only, or a file breaks a rule.
    """
    config = check_config(folder)
    return ModelFiles(config, {path: tensor_header(path) for path in _weight_files(folder, config)})


def check_config(folder: Path) -> dict[str, object]:
    """The configuration of a transformers folder, which need not have weights.

    Raises:
        ModelError: If it is no model folder, or a configuration breaks a rule.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no model folder {folder}.")
    if not (folder / "config.json").exists():
        adapter = (folder / "adapter_config.json").exists()
        advice = "It is an adapter: name the base model that it belongs to." if adapter else "Is it the right folder?"
        raise ModelError(f"{folder} is not a model folder: it has no config.json. {advice}")
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds a model and an adapter (adapter_config.json) at once. Move the adapter to a folder of its own."
        )
    config = read_config(folder / "config.json", is_known=_has_known_model)
    for path in (folder / name for name in _OTHER_CONFIGS):
        if path.exists():
            read_config(path, is_known=_has_known_tokenizer)
    return config


def _has_known_model(config: Mapping[str, object]) -> bool:
    """Whether transformers has classes of its own for the model type and every architecture that the configuration names."""
    import transformers

    names = config.get("architectures")
    known = isinstance(names, list) and bool(names) and all(name in dir(transformers) for name in names)
    model_types = list(transformers.CONFIG_MAPPING.keys())  # a list, because what is looked for may be anything
    return known and config.get("model_type") in model_types


def _has_known_tokenizer(config: Mapping[str, object]) -> bool:
    """Whether transformers has the tokenizer's class."""
    import transformers

    return config.get("tokenizer_class") in dir(transformers)


def _weight_files(folder: Path, config: Mapping[str, object]) -> list[Path]:
    """The safetensors files of a model folder: one, or those that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        raise ModelError(_no_weights(folder, config))
    weight_map = read_json(index, max_bytes=MAX_INDEX_BYTES).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    for name in names:
        if not isinstance(name, str) or name != Path(name).name or not name.endswith(".safetensors"):
            raise ModelError(
                f"{index} names the file {shown(name)}, which is not a safetensors file in the same folder. Refused."
            )
        if not (folder / name).exists():
            raise ModelError(f"{folder} lacks {name}, which its index names. The download is incomplete: get the model again.")
    if not names:
        raise ModelError(f"{index} has no 'weight_map' from tensors to files. Get the model again.")
    return sorted({folder / name for name in names})


def _no_weights(folder: Path, config: Mapping[str, object]) -> str:
    """Why a model folder cannot be loaded, and what to do."""
    files = sorted(p.name for p in folder.iterdir() if p.is_file())
    pickles = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in _PICKLES)]
    if not pickles:
        return f"{folder} has no weights: expected model.safetensors or model.safetensors.index.json, found {_listed(files)}."
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    name = first if isinstance(first, str) and first.isidentifier() else "AutoModel"
    return (
        f"{folder} has its weights only as {_listed(pickles)}. Such a file can run any code when it is opened, so it is not "
        "read here. Look for a revision of the model with model.safetensors. Or convert it once, in a container without "
        f"network and secrets: python -c \"import transformers as t; t.{name}.from_pretrained('OLD').save_pretrained('NEW')\""
    )


def _listed(names: list[str]) -> str:
    """File names as they may stand in a message."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(ascii(name)[1:-1] for name in names[:10]) + more if names else "no file"
