"""The only module that changes a model: replace, add, hook, freeze, stand in - and undo all of it.

Every change is written into a ledger of plain data that lives on the model, so that `detach` undoes it and a
deep copy of the model carries its own.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tunesmith.model import anatomy, extra_keys

_LEDGER = "_tunesmith_ledger"


def freeze(model: nn.Module) -> None:
    """Make every current parameter constant; `detach` thaws exactly those it froze."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    model.requires_grad_(False)
    _ledger(model).append(("frozen", names))


def thaw(model: nn.Module, names: list[str]) -> None:
    """Make the named parameters learn; `detach` freezes again those that were frozen."""
    _ledger(model).append(("thawed", [name for name in names if not model.get_parameter(name).requires_grad]))
    _let_learn(model, names, True)


def replace(model: nn.Module, path: str, new: nn.Module) -> None:
    """Put `new` at dotted `path`, in the mode of the module it replaces."""
    old = model.get_submodule(path)
    new.train(old.training)
    _put(model, path, new)
    _ledger(model).append(("replaced", path, old))


def replace_for_good(model: nn.Module, path: str, new: nn.Module) -> None:
    """The same while a model is made, before any method is attached: `detach` leaves it there."""
    new.train(model.get_submodule(path).training)
    _put(model, path, new)


def add(model: nn.Module, name: str, new: nn.Module) -> None:
    """Register `new` at dotted path `name`, as a child of a module of the model, on the model's device."""
    parent, _, leaf = name.rpartition(".")
    model.get_submodule(parent).add_module(leaf, new.to(next(model.parameters()).device))
    _ledger(model).append(("added", name))


def hook(model: nn.Module, path: str = "", *, before: Callable | None = None, after: Callable | None = None) -> None:
    """Change the inputs and/or the output of the forward of the module at `path` ("" is the model).

    A hook must read its tensors from the module it is given, never from a closure: a deep copy of the model
    copies its modules, but not what a function remembers.
    """
    module = model.get_submodule(path)
    if before:
        _ledger(model).append(("hooked", module.register_forward_pre_hook(before, with_kwargs=True)))
    if after:
        _ledger(model).append(("hooked", module.register_forward_hook(after, with_kwargs=True)))


def see_extra_keys(model: nn.Module, path: str) -> None:
    """Let the attention of the part at `path` see keys and values that `extra_keys.give` gives its layers."""
    part = model.get_submodule(path)
    _ledger(model).append(("attention", path, part.config._attn_implementation))  # pyright: ignore
    part.config._attn_implementation = extra_keys.NAME  # pyright: ignore


def num_changes(model: nn.Module) -> int:
    """How many changes the ledger holds."""
    return len(_ledger(model))


def detach(model: nn.Module, *, down_to: int = 0) -> None:
    """Undo every change, newest first; with `down_to`, until so many are left."""
    ledger = _ledger(model)
    while len(ledger) > down_to:
        entry = ledger.pop()
        match entry:
            case "frozen", names:
                _let_learn(model, names, True)
            case "thawed", names:
                _let_learn(model, names, False)
            case "replaced", path, old:
                old.train(model.get_submodule(path).training)
                _put(model, path, old)
            case "added", name:
                parent, _, leaf = name.rpartition(".")
                delattr(model.get_submodule(parent), leaf)
            case "hooked", handle:
                handle.remove()
            case "attention", path, usual:
                _set_attention(model, path, usual)


def train_added(model: nn.Module) -> None:
    """Put what a method added into training mode, and the base model's own modules into evaluation mode: no dropout there."""
    model.eval()
    for entry in _ledger(model):
        path = {"replaced": 1, "added": 1}.get(entry[0])
        if path is None:
            continue
        added = model.get_submodule(entry[path])
        known = {id(m) for m in entry[2].modules()} if entry[0] == "replaced" else set()
        for module in added.modules():
            module.training = id(module) not in known


@torch.no_grad()
def cast(model: nn.Module, dtype: torch.dtype, *, keep: frozenset[nn.Module] = frozenset(), only_frozen: bool = False) -> None:
    """Store all parameters in `dtype`, but those of the modules in `keep`; with `only_frozen` those that do not learn."""
    kept = {id(p) for module in keep for p in module.parameters()}
    for parameter in model.parameters():
        if parameter.is_floating_point() and id(parameter) not in kept and not (only_frozen and parameter.requires_grad):
            parameter.data = parameter.data.to(dtype)


@contextlib.contextmanager
def stand_in(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Answer calls of `module` with `forward` for a while; its hooks rest."""
    resting = [(hooks, dict(hooks)) for hooks in (module._forward_pre_hooks, module._forward_hooks)]
    for hooks, _ in resting:
        hooks.clear()
    object.__setattr__(module, "forward", forward)
    try:
        yield
    finally:
        object.__delattr__(module, "forward")
        for hooks, before in resting:
            hooks.update(before)


@contextlib.contextmanager
def without_pooler(model: PreTrainedModel) -> Iterator[None]:
    """Let the backbone skip its pooler for a while."""
    module = anatomy.pooler(model)
    if module is None:
        yield
        return
    with stand_in(module, lambda states: states):
        yield


@contextlib.contextmanager
def detached(model: nn.Module) -> Iterator[None]:
    """Compute as the base model for a while: replaced modules step aside for those they replaced, hooks rest.

    Only for methods that train no base weights.
    """
    ledger = _ledger(model)
    entries = _of(ledger, "replaced")
    tuned = [model.get_submodule(path) for _, path, _ in entries]
    switched = [(path, usual, _attention(model, path)) for _, path, usual in _of(ledger, "attention")]
    hooks = [(handle.hooks_dict_ref(), handle.id) for _, handle in _of(ledger, "hooked")]
    # In a module that something stands in for they rest already.
    resting = [(of_module, number, of_module.pop(number)) for of_module, number in hooks if number in of_module]
    for path, usual, _ in switched:
        _set_attention(model, path, usual)
    for _, path, old in reversed(entries):
        _put(model, path, old)
    try:
        yield
    finally:
        for (_, path, _), new in zip(entries, tuned, strict=True):
            _put(model, path, new)
        for path, _, ours in switched:
            _set_attention(model, path, ours)
        for of_module, number, function in resting:
            of_module[number] = function


def _of(ledger: list[tuple], kind: str) -> list[tuple]:
    return [entry for entry in ledger if entry[0] == kind]


def _attention(model: nn.Module, path: str) -> str:
    """How the part at `path` computes attention, by the name that transformers knows."""
    part = model.get_submodule(path)
    assert isinstance(part, PreTrainedModel)
    return str(part.config._attn_implementation)


def _set_attention(model: nn.Module, path: str, name: str) -> None:
    """Choose how the part at `path` computes attention, and forget what its layers were given to see."""
    part = model.get_submodule(path)
    assert isinstance(part, PreTrainedModel)
    part.config._attn_implementation = name
    extra_keys.take_back(part)


def _let_learn(model: nn.Module, names: list[str], learn: bool) -> None:
    for name in names:
        model.get_parameter(name).requires_grad_(learn)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _ledger(model: nn.Module) -> list[tuple]:
    """What was done to the model, as data and not as closures, so that it survives a copy."""
    return model.__dict__.setdefault(_LEDGER, [])
