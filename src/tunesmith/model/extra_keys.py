"""Keys and values that an attention layer sees before those of its input, and that belong to no token.

They are given to a layer for its next calls, through transformers' attention interface, so that no model code and no cache
is touched: they reach packed streams, padded rows, cached decoding and recomputed activations alike, in decoders and encoders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tunesmith.errors import SettingsError
from tunesmith.settings import DEFAULT_METHOD

NAME = "tunesmith_extra_keys"
"""What a model's attention must be set to for padded rows to see them; packed streams always do."""


@dataclass(frozen=True)
class ExtraKeys:
    """What one attention layer sees first."""

    keys: Tensor
    """(key heads, extra, width)"""
    values: Tensor
    """(key heads, extra, width)"""
    bias: Tensor | None = None
    """(1, heads, queries, extra) to add to the scores, where the model has biases for distances."""


class Noted(NamedTuple):
    """What an attention layer made of its input."""

    layer: nn.Module
    keys: Tensor
    """(rows, key heads, tokens, width)"""
    values: Tensor
    """(rows, key heads, tokens, width)"""
    is_recorded: bool
    """Whether gradients can come back to it; not where a layer computes once more in the backward pass for them."""


_given: WeakKeyDictionary[nn.Module, ExtraKeys] = WeakKeyDictionary()
_recordings: list[list[Noted]] = []


def give(layer: nn.Module, extra: ExtraKeys) -> None:
    """Let an attention layer see `extra` from now on; a copy of the layer sees nothing."""
    _given[layer] = extra


def take_back(model: nn.Module) -> None:
    """Let no layer of the model see anything extra."""
    for module in model.modules():
        _given.pop(module, None)


def of(layer: nn.Module) -> ExtraKeys | None:
    """What an attention layer was given."""
    return _given.get(layer)


@contextlib.contextmanager
def recording(config: PreTrainedConfig) -> Iterator[list[Noted]]:
    """Collect the keys and values of every attention that is computed."""
    usual = config._attn_implementation
    config._attn_implementation = NAME
    try:
        with noting() as found:
            yield found
    finally:
        config._attn_implementation = usual


@contextlib.contextmanager
def noting() -> Iterator[list[Noted]]:
    """Collect the same of attention over packed streams."""
    _recordings.append([])
    try:
        yield _recordings[-1]
    finally:
        _recordings.pop()


def note(layer: nn.Module, keys: Tensor, values: Tensor) -> None:
    """Tell who collects of keys and values that a layer has made."""
    if _recordings:
        _recordings[-1].append(Noted(layer, keys, values, torch.is_grad_enabled()))


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, Tensor | None]:
    """Transformers' attention interface over padded rows; `query` is `(rows, heads, tokens, width)`.

    Raises:
        SettingsError: If the attention is of a kind that cannot see extra keys.
    """
    if settings.get("s_aux") is not None or settings.get("softcap") is not None:
        raise SettingsError(
            f"{type(module).__name__} has a soft cap or sinks, for which keys and values of a method's own have no form. "
            f"Choose a method that adds none, such as --method {DEFAULT_METHOD}."
        )
    note(module, key, value)
    extra = of(module)
    bias = settings.pop("position_bias", None)
    if extra is not None:
        num_extra = extra.keys.shape[1]
        key, value = (
            torch.cat([t.to(own.dtype).expand(len(own), -1, -1, -1), own], 2)
            for t, own in ((extra.keys, key), (extra.values, value))
        )
        if attention_mask is not None:
            attention_mask = nn.functional.pad(attention_mask, (num_extra, 0), value=attention_mask.dtype == torch.bool)
        if bias is not None:
            shape = (*bias.shape[:3], num_extra)
            bias = torch.cat([bias.new_zeros(shape) if extra.bias is None else extra.bias.to(bias.dtype), bias], 3)
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, position_bias=bias, **{**settings, "is_causal": False}
    )


def _mask(*shape: Any, **settings: Any) -> Tensor | None:
    """A mask wherever a token may not look at all others: causality cannot be left to a kernel that knows no extra keys."""
    return sdpa_mask(*shape, **{**settings, "allow_is_causal_skip": False})


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)
