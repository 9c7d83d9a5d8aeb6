"""Learnt vectors before a decoder's input, and words that all rows begin with, go through its layers once for all passes.

A decoder's beginning sees nothing of what follows it, so no pass needs its states, only the keys and values that the layers
make of it, in a stream of the beginning alone. The words that follow see them as extra keys, and count their places on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from tunesmith.kernels.segments import Segments
from tunesmith.model import anatomy, extra_keys, packed
from tunesmith.model.extra_keys import ExtraKeys
from tunesmith.model.once_a_step import Made

_making: list[None] = []
_by_pass: WeakSet[nn.Module] = WeakSet()
"""Decoders of which every pass must compute the beginning: a window hides it from words that stand far behind."""


def is_being_made() -> bool:
    """Whether a stream of the beginning alone is computed."""
    return bool(_making)


class Beginning:
    """Vectors that stand before every row, and perhaps words behind them, `(words,)` token ids, which rows leave out."""

    def __init__(self, vectors: Callable[[], Tensor], words: Tensor | None = None) -> None:
        self._vectors, self._words = vectors, words
        self._embeddings: Tensor | None = None
        self._part: PreTrainedModel | None = None
        self._made = Made(lambda: [])
        self._seeing: list[nn.Module] = []

    def is_seen(self, part: PreTrainedModel) -> bool:
        """Whether the layers of a decoder see the beginning, so that no pass need compute it."""
        if not self._seeing and _all_see_all(part):
            self._part, self._embeddings = part, self._embedded(part)
            known = _keys_and_values(part, self._embeddings)
            if known is not None:
                copies = self._made.keep([t for _, keys, values in known for t in (keys, values)])
                self._seeing = [layer for layer, _, _ in known]
                for layer, keys, values in zip(self._seeing, copies[::2], copies[1::2], strict=True):
                    extra_keys.give(layer, ExtraKeys(keys, values))
        return bool(self._seeing)

    @property
    def num_words(self) -> int:
        """How many words passes leave out."""
        return 0 if self._words is None else len(self._words)

    def end(self) -> None:
        """Let no layer see it any more."""
        for layer in self._seeing:
            extra_keys.take_back(layer)

    def backward(self) -> None:
        """Pass on the gradients of all passes."""
        if self._seeing:
            assert self._part is not None
            assert self._embeddings is not None
            self._made.backward(_stream(self._part, len(self._embeddings)))  # layers may compute once more

    def _embedded(self, part: PreTrainedModel) -> Tensor:
        """What the layers are given, `(tokens, width of the embeddings)`."""
        vectors = self._vectors().to(anatomy.dtype_of(part))
        return vectors if self._words is None else torch.cat([vectors, part.get_input_embeddings()(self._words)])


def _all_see_all(part: PreTrainedModel) -> bool:
    """Whether the part of a model that reads is a decoder, working on a packed stream, that shows every word its beginning."""
    if packed.rows() is None or part in _by_pass:
        return False
    return not anatomy.is_encoder(part.config) and not _turns_by_length(part.config)


def _keys_and_values(part: PreTrainedModel, embeddings: Tensor) -> list[tuple[nn.Module, Tensor, Tensor]] | None:
    """What the layers of a decoder make of `(tokens, width)`: each with its keys and values, `(key heads, tokens, width)`.

    None if a window would hide some from words, or layers recompute what they make in a way that keeps no gradient.
    """
    places = torch.arange(len(embeddings), device=embeddings.device) + anatomy.first_position(part.config)
    with _stream(part, len(embeddings)), packed.noting_windows() as windows, extra_keys.noting() as found:
        part(inputs_embeds=embeddings[None], position_ids=places[None], use_cache=False)
    if windows != {None} or not all(one.is_recorded == torch.is_grad_enabled() for one in found):
        _by_pass.add(part)
        return None
    return [(one.layer, one.keys[0], one.values[0]) for one in found]


@contextlib.contextmanager
def _stream(part: PreTrainedModel, num_tokens: int) -> Iterator[None]:
    """Let the part of a model that reads work on the beginning alone."""
    _making.append(None)
    try:
        with packed.packing(part, Segments([num_tokens], anatomy.device_of(part))):
            yield
    finally:
        _making.pop()


def _turns_by_length(config: PreTrainedConfig) -> bool:
    """Whether rotary embedding depends on how long the rows of a pass are; it would turn the beginning alone otherwise."""
    tree = config.to_dict()
    rotary = [tree.get(name) or {} for name in ("rope_parameters", "rope_scaling")]
    kinds = [one.get("rope_type") for group in rotary for one in (group, *group.values()) if isinstance(one, dict)]
    return any(kind == "longrope" or "dynamic" in str(kind) for kind in kinds)
