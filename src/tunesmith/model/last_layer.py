"""What the last layer does to every token by itself, done only for the tokens whose final states are read.

Behind attention, tokens of a layer do not see each other any more. A classifier reads one state a row, a language model those
that predict, so in the last layer the others need no feed-forward block and no projection behind attention.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import NoSuchTarget
from tunesmith.model import anatomy, beginning, roles, surgery

MOST_READ = 0.75
"""Share of the tokens; above it, little could be left out, and picking costs something."""
_known: WeakKeyDictionary[nn.Module, list[tuple[str, str]]] = WeakKeyDictionary()


@contextlib.contextmanager
def read_at(model: PreTrainedModel, places: Tensor | None, num_tokens: int, ahead: int = 0) -> Iterator[None]:
    """Let nobody rely on final states of a stream of so many tokens but at `places`, `(read,)`; None are all.

    `ahead` is how many more go through the layers before them, whose final states nobody reads.
    """
    if places is None or len(places) > MOST_READ * num_tokens:
        yield
        return
    if model not in _known:
        _known[model] = _stretches(model)
    stretches = [_Stretch(places + ahead, num_tokens + ahead) for _ in _known[model]]
    hooks = [
        hook
        for stretch, (start, end) in zip(stretches, _known[model], strict=True)
        for hook in (
            model.get_submodule(start).register_forward_pre_hook(stretch.pick),
            model.get_submodule(end).register_forward_hook(stretch.put_back),
        )
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Stretch:
    """Some modules, one after the other, that are given the tokens at some places."""

    def __init__(self, places: Tensor, num_tokens: int) -> None:
        self.places, self.num_tokens = places, num_tokens

    def pick(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs of the first module; of another stream than expected, all."""
        if beginning.is_being_made() or args[0].shape[-2] != self.num_tokens:
            return args
        return args[0].index_select(-2, self.places), *args[1:]

    def put_back(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The outputs of the last module at their places, zeros elsewhere."""
        if beginning.is_being_made() or output.shape[-2] != len(self.places):
            return output
        whole = output.new_zeros(*output.shape[:-2], self.num_tokens, output.shape[-1])
        return torch.index_copy(whole, -2, self.places, output)


def _stretches(model: PreTrainedModel) -> list[tuple[str, str]]:
    """Paths of the first and the last module of each stretch in the last layer; none if that is not known."""
    with surgery.detached(model):  # by the paths of the model's own layers
        try:
            blocks, ends = roles.blocks(model), roles.layers(model, (roles.ATTENTION,))
        except NoSuchTarget:
            return []
    if not len(blocks) == len(ends) == anatomy.num_layers(model.config):  # layers share modules, or have experts
        return []
    return [(ends[-1], ends[-1]), _outermost(*blocks[-1])]


def _outermost(start: str, end: str) -> tuple[str, str]:
    """The module that a feed-forward block is, twice, or its first and last linear layer if the layer has it in pieces."""
    pairs = zip(start.split("."), end.split("."), strict=False)
    common = ".".join(one for one, other in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return (start, end) if common.rpartition(".")[2].isdigit() else (common, common)
