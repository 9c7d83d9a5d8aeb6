"""Attention of a whole packed stream in one call on a GPU, by the variable-length flash attention that torch brings.

q: (queries, heads, width), k, v: (keys, kv heads, width); segments are told by where they end. No probabilities and no
mask are held; kept for the backward pass are q, k, v, the result and one normaliser a query and head.

The kernel lets the last query of a segment see its last key, so shared keys are copied in front of each segment's own:
its queries then see all of them, and positions keep their distances.

Called by its operators, as `torch.nn.attention.varlen` does it: these leave room to ask for a fixed order of additions in
the backward pass alone, which a resumed run needs to be the same run.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.segments import Layout, Segments

if TYPE_CHECKING:
    from tunesmith.kernels.attention import Rule

_forward = torch.ops.aten._flash_attention_forward
_backward = torch.ops.aten._flash_attention_backward
_WIDEST = 256  # of a head, the kernel's limit
_OLDEST_CARD = (8, 0)  # compute capability that it is written for


def takes(q: Tensor, v: Tensor, segments: Segments, rule: Rule) -> bool:
    """Whether this device has the kernel, and it knows this form of attention."""
    return _is_on(q.device) and _knows(q, v, segments, rule)


@functools.cache
def _is_on(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip or not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.cuda.get_device_capability(device) >= _OLDEST_CARD


def _knows(q: Tensor, v: Tensor, segments: Segments, rule: Rule) -> bool:
    if rule.softcap or rule.dropout or q.dtype not in (torch.bfloat16, torch.float16):
        return False
    if rule.window is not None and segments.num_given:
        return False  # no window hides given keys, and the kernel's would
    width = q.shape[2]
    # Between 192 and 224 some cards have no backward pass.
    return width == v.shape[2] and width % 8 == 0 and (width <= 192 or 224 < width <= _WIDEST)


def attend(q: Tensor, k: Tensor, v: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """Attend within segments and to what they share; returns `(queries, heads, width)`."""
    layout = segments.layout
    if segments.num_shared:
        k, v = (_Seen.apply(t, segments) for t in (k, v))  # pyright: ignore[reportAssignmentType]
    return _Varlen.apply(q, k, v, layout, _settings(layout, rule))  # pyright: ignore[reportReturnType]


class _Settings(NamedTuple):
    causal: bool
    scale: float
    window: tuple[int, int]
    """How many tokens before and after its own place a query may see, -1 for all."""


def _settings(layout: Layout, rule: Rule) -> _Settings:
    reach = -1 if rule.window is None or rule.window >= layout.most_keys else rule.window - 1
    return _Settings(rule.causal, rule.scale, (reach, 0 if rule.causal else reach))


class _Varlen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout, settings: _Settings) -> Tensor:
        out, normaliser, *random = _forward(
            *(q, k, v, layout.query_ends, layout.key_ends, layout.most_queries, layout.most_keys),
            *(0.0, settings.causal, False),
            **_keywords(settings),
        )
        ctx.save_for_backward(q, k, v, out, normaliser, *random[:2])
        ctx.layout, ctx.settings = layout, settings
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (*tensors, random, unused), layout = ctx.saved_tensors, ctx.layout
        with _fixed_order():
            gradients = _backward(
                *(dout.contiguous(), *tensors, layout.query_ends, layout.key_ends, layout.most_queries, layout.most_keys),
                *(0.0, ctx.settings.causal, random, unused),
                **_keywords(ctx.settings),
            )
        return *gradients, None, None


def _keywords(settings: _Settings) -> dict[str, float | int]:
    left, right = settings.window
    return {"scale": settings.scale, "window_size_left": left, "window_size_right": right}


@contextlib.contextmanager
def _fixed_order() -> Iterator[None]:
    """Let the kernel add up gradients in the same order every time."""
    switch: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), switch.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    switch.fill_uninitialized_memory = False  # every number is written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        switch.fill_uninitialized_memory = before[1]


class _Seen(torch.autograd.Function):
    """Keys or values as the segments see them, one segment after the other; the shared ones as often as they are seen."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments
        return t.index_select(0, segments.layout.seen)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dseen: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        segments, layout = ctx.segments, ctx.segments.layout
        own = dseen.index_select(0, layout.own)
        copies = dseen.index_select(0, layout.copies).unflatten(0, (-1, segments.num_shared))
        shared = copies.sum(0, dtype=torch.float32)  # not by index_add, whose order changes on a GPU
        shared[: layout.num_copied] += dseen[: layout.num_copied]
        given, ahead = shared.to(dseen.dtype).split([segments.num_given, segments.num_ahead])
        own[: segments.num_ahead] += ahead
        return torch.cat([given, own]) if len(given) else own, None
