"""What is the same in all passes of a step, made once: passes use copies, which take up gradients, and hand them on at the end.

Vectors before a decoder's input are the same for every row and see no word, so no pass needs their states, only the keys and
values that the layers make of them, in a stream of the vectors alone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from tunesmith.kernels.segments import Segments
from tunesmith.model import anatomy, extra_keys, packed
from tunesmith.model.extra_keys import ExtraKeys

_making: list[None] = []
_by_pass: WeakSet[nn.Module] = WeakSet()
"""Decoders of which every pass must compute the vectors: a window hides them from words that stand far behind."""


def is_being_made() -> bool:
    """Whether a stream of the vectors alone is computed."""
    return bool(_making)


class Made:
    """What a module has made, and copies of it that take up the gradients of passes."""

    def __init__(self, maker: nn.Module) -> None:
        self.maker = maker
        self._outputs: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._is_one = False
        self._seeing: list[nn.Module] = []
        """Layers that see the copies, where they are keys and values of vectors."""
        self._scope: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        """What making the outputs ran inside of, for layers that recompute it in the backward pass."""

    def copies(self) -> Tensor | list[Tensor]:
        """What the module makes, a tensor or several, made by the first pass that asks."""
        if not self._copies:
            made = self.maker()
            self._is_one = isinstance(made, Tensor)
            self._copy([made] if isinstance(made, Tensor) else made)
        return self._copies[0] if self._is_one else self._copies

    def is_seen(self, part: PreTrainedModel) -> bool:
        """Whether the layers of a decoder see the vectors that the module makes, so that no pass need compute them."""
        if not self._copies and torch.is_grad_enabled() and _all_see_all(part):
            vectors = self.maker()
            known = _keys_and_values(part, vectors)
            if known is not None:
                self._scope = functools.partial(_stream, part, vectors)
                self._seeing = [layer for layer, _, _ in known]
                self._copy([t for _, keys, values in known for t in (keys, values)])
                for layer, keys, values in zip(self._seeing, self._copies[::2], self._copies[1::2], strict=True):
                    extra_keys.give(layer, ExtraKeys(keys, values))
        return bool(self._seeing)

    def _copy(self, outputs: list[Tensor]) -> None:
        self._outputs = outputs
        # In float32, in which the gradients of many passes can be added up.
        self._copies = [output.detach().float().requires_grad_() for output in outputs]

    def end(self) -> None:
        """Let no layer see the copies."""
        for layer in self._seeing:
            extra_keys.take_back(layer)

    def backward(self) -> None:
        """Pass on what the copies have taken up."""
        known = [(output, copy.grad) for output, copy in zip(self._outputs, self._copies, strict=True) if copy.grad is not None]
        if known:
            with self._scope():
                torch.autograd.backward([output for output, _ in known], [grad.to(output.dtype) for output, grad in known])


def _all_see_all(part: PreTrainedModel) -> bool:
    """Whether the part of a model that reads is a decoder, working on a packed stream, that shows every word all vectors."""
    if packed.rows() is None or part in _by_pass:
        return False
    return not anatomy.is_encoder(part.config) and not _turns_by_length(part.config)


def _keys_and_values(part: PreTrainedModel, vectors: Tensor) -> list[tuple[nn.Module, Tensor, Tensor]] | None:
    """What the layers of a decoder make of `(vectors, width)`: each with its keys and values, `(key heads, vectors, width)`.

    None if a window would hide vectors from words, or layers recompute what they make in a way that keeps no gradient.
    """
    inputs = {
        "inputs_embeds": vectors[None].to(anatomy.dtype_of(part)),
        "position_ids": torch.arange(len(vectors), device=vectors.device)[None] + anatomy.first_position(part.config),
    }
    with _stream(part, vectors), packed.noting_windows() as windows, extra_keys.noting() as found:
        part(**inputs, use_cache=False)
    if windows != {None} or not all(keys.requires_grad for _, keys, _ in found[1:]):
        _by_pass.add(part)
        return None
    return [(layer, keys[0], values[0]) for layer, keys, values in found]


@contextlib.contextmanager
def _stream(part: PreTrainedModel, vectors: Tensor) -> Iterator[None]:
    """Let the part of a model that reads work on the vectors alone."""
    _making.append(None)
    try:
        with packed.packing(part, Segments([len(vectors)], vectors.device)):
            yield
    finally:
        _making.pop()


def _turns_by_length(config: PreTrainedConfig) -> bool:
    """Whether rotary embedding depends on how long the rows of a pass are; it would turn the vectors alone otherwise."""
    tree = config.to_dict()
    rotary = [tree.get(name) or {} for name in ("rope_parameters", "rope_scaling")]
    kinds = [one.get("rope_type") for group in rotary for one in (group, *group.values()) if isinstance(one, dict)]
    return any(kind == "longrope" or "dynamic" in str(kind) for kind in kinds)
