"""Run any `transformers` model over a packed stream: rows after each other, each seeing only itself.

Inside `packing(model, segments)` the model's attention is ours (registered through transformers' attention
interface, so no model code is touched), and no mask is built. The segments are kept in this module for the
time of a forward *and* its backward pass, so that activation checkpointing finds them when it recomputes.

They belong to the process, not to a thread, because the threads of a backward pass must find them too. So one thread at a
time computes, whatever its model: the others wait for their `turn`. All of tunesmith does; who calls a model that is used
by another thread must hold `turn` as well.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tunesmith.kernels.attention import Rule, segment_attention
from tunesmith.kernels.segments import Segments
from tunesmith.model import anatomy, extra_keys, surgery

NAME = "tunesmith_packed"


@dataclass
class _Scope:
    rows: Segments
    """The rows of the stream that the model is given."""
    seen: Segments
    """What attention sees; more than the rows where a method adds tokens of its own."""


_active: list[_Scope] = []
turn = threading.RLock()
"""Held by the thread that computes with a model."""
os.register_at_fork(before=turn.acquire, after_in_parent=turn.release, after_in_child=turn.release)  # no child finds it held


@contextlib.contextmanager
def packing(model: PreTrainedModel, segments: Segments) -> Iterator[None]:
    """Let attention see segments of the one stream that the model is given; other threads wait until the block ends."""
    config = model.config
    with turn:
        usual = config._attn_implementation
        config._attn_implementation = NAME
        _active.append(_Scope(segments, segments))
        try:
            yield
        finally:
            _active.pop()
            config._attn_implementation = usual


_noted: list[set[int | None]] = []


@contextlib.contextmanager
def noting_windows() -> Iterator[set[int | None]]:
    """Collect the windows of all attention that is computed for a stream, None for that without."""
    _noted.append(set())
    try:
        yield _noted[-1]
    finally:
        _noted.pop()


def rows() -> Segments | None:
    """The rows of the stream that is worked on, None outside of `packing`."""
    return _active[-1].rows if _active else None


def see(segments: Segments) -> None:
    """Let attention see other segments than the rows, until the scope ends."""
    _active[-1].seen = segments


def hidden_states(
    model: PreTrainedModel,
    input_ids: Tensor,
    segments: Segments,
    token_types: Tensor | None = None,
    beginning: Tensor | None = None,
) -> Tensor:
    """Final hidden states `(tokens, hidden)` of a stream `(tokens,)`; call inside `packing`.

    With `beginning`, `(words,)` token ids that all rows of a decoder begin with, the stream holds what follows them.
    """
    positions, ahead = segments.positions, 0
    if beginning is not None:
        ahead = len(beginning)
        see(segments.sharing(num_ahead=ahead))
        input_ids = torch.cat([beginning, input_ids])
        positions = torch.cat([torch.arange(ahead, device=positions.device), positions + ahead])
    inputs: dict[str, Any] = {
        "input_ids": input_ids[None],
        "position_ids": positions[None] + anatomy.first_position(model.config),
    }
    if anatomy.has_token_types(model):
        inputs["token_type_ids"] = (torch.zeros_like(input_ids) if token_types is None else token_types)[None]
    if not anatomy.is_encoder(model.config):
        inputs["use_cache"] = False
    with surgery.without_pooler(model):  # it would pool the stream's first token; `heads` pools each row's
        return anatomy.backbone(model)(**inputs).last_hidden_state[0, ahead:]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface; `query` is `(1, heads, tokens, width)`, the result `(1, tokens, heads, width)`."""
    if attention_mask is not None or s_aux is not None or position_bias is not None:
        raise NotImplementedError("attention with a mask, sinks or a position bias has no packed form")
    for windows in _noted:
        windows.add(sliding_window)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rule = Rule(causal, scale, sliding_window, softcap, dropout)
    segments, extra = _active[-1].seen, extra_keys.of(module)
    extra_keys.note(module, key, value)
    if extra is not None:
        segments = segments.sharing(num_given=extra.keys.shape[1])
        key, value = (torch.cat([t.to(own.dtype)[None], own], 2) for t, own in ((extra.keys, key), (extra.values, value)))
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    assert len(q) == segments.num_queries, "the stream is not the one that attention was told of"
    return segment_attention(q, k, v, segments, rule)[None], None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
