"""Adapters as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`, written and read.

What the method decides stands in the method's own file (`interchange.PeftFormat`); here is what all share: heads under
`modules_to_save`, the task type, and the rules for a foreign file. `target_modules` is never interpreted when
reading: which modules are adapted shows in the names of the tensors, so no pattern from a file is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from tunesmith import registry
from tunesmith.checkpoint import peft_tokens, trained
from tunesmith.checkpoint.trained import TwoFiles, fill, thaw_saved, trainable
from tunesmith.errors import ModelError, RunError
from tunesmith.interchange import ForPeft, PeftFormat
from tunesmith.method import Method
from tunesmith.model import token_rows
from tunesmith.model.safe_files import read_json, read_tensors, shown

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1_000_000
_SHARED_KEYS = {"peft_type", "task_type", "base_model_name_or_path", "revision", "peft_version", "inference_mode"}
_SHARED_KEYS |= {"auto_mapping", "modules_to_save"}
_TASK_TYPES = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}


def files(model: nn.Module, method: ForPeft, *, base_model: str) -> TwoFiles:
    """A trained method as PEFT keeps it.

    Args:
        model: The model with the method attached.
        method: What is attached.
        base_model: The base as the user named it, for whoever loads the adapter.

    Raises:
        RunError: If PEFT's format cannot hold what was trained.
    """
    tokens, rows, rest = peft_tokens.write(model, trainable(model))
    if rows and not method.peft_keeps_rows:
        raise RunError(f"PEFT has no format for rows of embeddings beside the type {method.peft_type}.")
    parts = method.to_peft(model, rest)
    config = {
        "peft_type": method.peft_type,
        "task_type": _task_type(model),
        "base_model_name_or_path": base_model,
        "revision": None,
        "auto_mapping": None,
        "inference_mode": True,
        "modules_to_save": _head_modules(model, parts.heads) or None,
        **method.peft_marks,
        **parts.config,
        **tokens,
    }
    tensors = {**parts.tensors, **rows, **{f"{method.peft_prefix}{name}": tensor for name, tensor in parts.heads.items()}}
    return TwoFiles(TENSORS, tensors, CONFIG, dict(sorted(config.items())))


def write(model: nn.Module, method: Method, folder: Path, *, base_model: str) -> None:
    """Save a trained method in PEFT's format, whole or not at all; a folder already there is replaced.

    Raises:
        RunError: If PEFT's format cannot hold what was trained, or the folder cannot be written.
        DiskFull: If there is too little room.
    """
    if not isinstance(method, ForPeft):
        raise RunError(f"PEFT has no format for the method {method.name!r}.")
    trained.write(folder, files(model, method, base_model=base_model))


def load(model: nn.Module, folder: Path) -> Method:
    """Attach an adapter in PEFT's format, ours or PEFT's own, to a bare model.

    Raises:
        InputError: If it cannot be read, asks for something no method here computes, or belongs to another model.
    """
    method, tensors, rows = read(folder, model)
    method.attach(model)
    tensors |= {token_rows.train(model, own.path, own.tokens): own.tensor for own in rows}
    fixed = {name: buffer for name, buffer in model.named_buffers() if name in tensors}
    own = trainable(model).keys() | fixed.keys()
    kept = thaw_saved(model, {name: tensor for name, tensor in tensors.items() if name not in own}, str(folder))
    fill(model, {name: tensor for name, tensor in tensors.items() if name in own or name in kept}, str(folder), fixed)
    return method


def read(folder: Path, model: nn.Module) -> tuple[Method, dict[str, Tensor], list[peft_tokens.Rows]]:
    """The method of an adapter, its tensors by the names they have in `model` after `attach`, and learnt rows of embeddings.

    Raises:
        InputError: If it cannot be read safely or asks for something no method here computes.
    """
    if not (folder / TENSORS).exists() and (folder / "adapter_model.bin").exists():
        raise ModelError(
            f"{folder} has its weights only as adapter_model.bin. Such a file can run any code when it is opened, so it is not "
            f"read here. Save it with PEFT 0.5 or newer as {TENSORS}, in a container without network and secrets."
        )
    where = str(folder / CONFIG)
    config = read_json(folder / CONFIG, max_bytes=MAX_CONFIG_BYTES)
    kind = _method_for(config, where)
    _refuse_unknown(config, kind, where)
    rows, tensors = peft_tokens.read(config, read_tensors(folder / TENSORS), where)
    modules = _modules_to_save(config, where) + token_rows.embeddings(model)
    own, heads = _without_heads(tensors, modules, kind.peft_prefix)
    method, tensors = kind.from_peft(config, own, model)
    assert isinstance(method, Method)
    return method, {**tensors, **heads}, rows


def _method_for(config: Mapping[str, object], where: str) -> type[PeftFormat]:
    """The method whose type and marks a configuration carries."""
    classes = [registry.find(registry.METHODS, name, Method) for name in registry.names(registry.METHODS)]
    known = [kind for kind in classes if issubclass(kind, PeftFormat)]
    same_type = [kind for kind in known if kind.peft_type == config.get("peft_type")]
    if not same_type:
        types = ", ".join(sorted({kind.peft_type for kind in known}))
        raise ModelError(f"{where}: 'peft_type' is {shown(config.get('peft_type'))}; readable here: {types}.")
    for kind in same_type:
        if all(config.get(key, False) == value for key, value in kind.peft_marks.items()):
            return kind
    marks = sorted({key for kind in same_type for key in kind.peft_marks if config.get(key)})
    raise ModelError(f"{where}: no method here computes an adapter with {', '.join(marks)} switched on.")


def _refuse_unknown(config: Mapping[str, object], kind: type[PeftFormat], where: str) -> None:
    """Refuse keys that are switched on and that nothing here would honour."""
    known = _SHARED_KEYS | kind.peft_keys | kind.peft_ignored | kind.peft_marks.keys()
    strange = sorted(key for key, value in config.items() if key not in known and value and value != "none")
    if strange:
        listed = ", ".join(f"{shown(key)} = {shown(config[key])}" for key in strange[:10])
        raise ModelError(
            f"{where} asks for what is not computed here: {listed}. The adapter would give other results, so it is refused."
        )


def _modules_to_save(config: Mapping[str, object], where: str) -> list[str]:
    """The modules that were trained whole."""
    modules = config.get("modules_to_save") or []
    if not isinstance(modules, list) or not all(isinstance(module, str) and module for module in modules):
        raise ModelError(f"{where}: 'modules_to_save' must be a list of module names, found {shown(modules)}.")
    return modules


def _without_heads(
    tensors: Mapping[str, Tensor], modules: list[str], prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the method under PEFT's names, and those of modules that were trained whole under the model's."""
    own, heads = {}, {}
    for name, tensor in tensors.items():
        parts = name.removeprefix(prefix).split(".")
        ancestors = (".".join(parts[:end]) for end in range(1, len(parts)))
        is_head = name.startswith(prefix) and any(path.endswith(module) for path in ancestors for module in modules)
        (heads if is_head else own)[".".join(parts) if is_head else name] = tensor
    return own, heads


def _head_modules(model: nn.Module, heads: Mapping[str, Tensor]) -> list[str]:
    """The largest modules that were trained whole; PEFT saves a head by module."""
    modules = set()
    for name in heads:
        path = name.rpartition(".")[0]
        if not path or not _all_trained(model, path, heads):
            raise RunError(f"PEFT's format holds whole modules, and {name!r} is only a part of one that was trained.")
        while (parent := path.rpartition(".")[0]) and _all_trained(model, parent, heads):
            path = parent
        modules.add(path)
    return sorted(modules)


def _all_trained(model: nn.Module, path: str, heads: Mapping[str, Tensor]) -> bool:
    return all(f"{path}.{name}" in heads for name, _ in model.get_submodule(path).named_parameters())


def _task_type(model: nn.Module) -> str:
    """PEFT's word for what the model's head does."""
    name = type(model).__name__
    return next((task for ending, task in _TASK_TYPES.items() if name.endswith(ending)), "FEATURE_EXTRACTION")
