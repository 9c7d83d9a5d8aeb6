"""Which layers of a model are made alike: what is found out of one of them holds for the others, too.

A trial of a whole model asks whether code of ours agrees with the model's own. That is a question about code, not about
weights, so that a model of thirty equal layers answers it by three of them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.model import anatomy, surgery

ALWAYS = 2
"""The first layers, which compute in any case, as the last does: what depends on a layer's number shows in one of them."""
_NUMBERS = ("layer_idx", "layer_id", "layer_index", "layer_number")
_PLAIN = (bool, int, float, str, NoneType, tuple, list, torch.dtype)


@contextlib.contextmanager
def left_out(model: PreTrainedModel) -> Iterator[None]:
    """Let layers that are made like an earlier one pass on what they are given for a while, but for the last.

    A model whose layers are not found, or all differ, computes with all.
    """
    layers = _layers(model)
    kinds = [_kind(model, layer, number) for number, layer in enumerate(layers)]
    alike = [n for n in range(ALWAYS, len(layers) - 1) if kinds[n] in kinds[:n]]
    passing = _Passing()
    with contextlib.ExitStack() as stack:
        for number in alike:
            stack.enter_context(surgery.stand_in(layers[number], passing))
        hooks = [layer.register_forward_hook(passing.note) for layer in layers[:1] if alike]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _Passing:
    """Answers as a layer that changes nothing, in the form of the layer that was noted."""

    def __init__(self) -> None:
        self.also: tuple[Any, ...] | None = None
        """What the layer gives besides hidden states, None if it gives these as they are."""

    def note(self, _module: nn.Module, _args: object, output: Tensor | tuple[Any, ...]) -> None:
        """See what form a layer's output has."""
        self.also = None if isinstance(output, Tensor) else tuple(output[1:])

    def __call__(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor | tuple[Any, ...]:
        return hidden_states if self.also is None else (hidden_states, *self.also)


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of the backbone in order; none if there is not one list of them."""
    count = anatomy.num_layers(model.config)
    lists = [m for m in anatomy.backbone(model).modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    return list(lists[0]) if len(lists) == 1 else []


def _kind(model: PreTrainedModel, layer: nn.Module, number: int) -> list[object]:
    """All that says how a layer computes, but its weights: its parts, their settings, what the configuration lists for it."""
    config, count = vars(model.config.get_text_config()), anatomy.num_layers(model.config)
    kind: list[object] = [
        (name, repr(value[number])) for name, value in config.items() if isinstance(value, list | tuple) and len(value) == count
    ]
    for path, module in layer.named_modules():
        tensors = itertools.chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        kind.append((path, type(module), [(name, tensor.shape, tensor.dtype) for name, tensor in tensors]))
        kind.append({name: _seen_of(value) for name, value in vars(module).items() if name not in _NUMBERS})
    return kind


def _seen_of(value: object) -> object:
    """What of an attribute must be the same: the value of a setting, the number of hooks, the kind of anything else."""
    if isinstance(value, _PLAIN):
        return repr(value)
    return len(value) if isinstance(value, dict) else type(value)
