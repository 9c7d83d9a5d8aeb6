"""Frozen linear layers plus low-rank changes, forward and backward by hand; layers that read the same input go together.

y = x Wt + b + s (x At) Bt      x: (tokens, d_in), W: (d_out, d_in), A: (rank, d_in), B: (d_out, rank)

Kept for the backward pass: x and s x At only, once for all layers that read x. A and B are cast to x's type once per
call, their gradients are summed in their own (float32); no full-size product is ever held besides the y and dx.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.frozen_linear import FrozenWeight, add_input_gradient, add_product


class Changed(NamedTuple):
    """A frozen linear layer and the factors of its change."""

    weight: FrozenWeight
    bias: Tensor | None
    a: Tensor
    b: Tensor


class Kept(NamedTuple):
    """What the gradients of some layers with one input need besides that input."""

    projected: Tensor
    """s x At of all layers beside each other, `(tokens, sum of ranks)`."""
    a: Tensor
    """The factors A on top of each other, `(sum of ranks, d_in)`, in x's type."""


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """The obvious computation, which `lora_linear` must equal."""
    return torch.nn.functional.linear(x, weight, bias) + scale * (x @ a.t().to(x.dtype) @ b.t().to(x.dtype))


def lora_linear(x: Tensor, layers: Sequence[Changed], scale: float) -> tuple[Tensor, ...]:
    """Map `(..., d_in)` to `(..., d_out)` by every layer; gradients flow to x, the A and the B, never to a W or a bias."""
    flat = x.reshape(-1, x.shape[-1])
    results = _LoRALinear.apply(flat, layers, scale, *factors(layers))
    return tuple(y.view(*x.shape[:-1], y.shape[-1]) for y in results)  # pyright: ignore[reportGeneralTypeIssues]


def factors(layers: Sequence[Changed]) -> list[Tensor]:
    """All A, then all B: the tensors that learn, as autograd functions take them."""
    return [*(layer.a for layer in layers), *(layer.b for layer in layers)]


def products(x: Tensor, layers: Sequence[Changed], scale: float) -> tuple[list[Tensor], Kept]:
    """What the layers make of x `(tokens, d_in)`, and what `gradients` needs."""
    a = _stacked([layer.a for layer in layers]).to(x.dtype)
    projected = (x @ a.t()).mul_(scale)
    outputs = []
    for layer, part in zip(layers, projected.split(_ranks(layers), 1), strict=True):
        # The small product comes first: added to an output that is already rounded to 16 bits, most of it would be lost.
        y = part @ layer.b.t().to(x.dtype)
        if layer.bias is not None:
            y.add_(layer.bias)
        add_product(y, x, layer.weight)
        outputs.append(y)
    return outputs, Kept(projected, a)


def gradients(
    doutputs: Sequence[Tensor], x: Tensor, kept: Kept, layers: Sequence[Changed], scale: float, *, for_input: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """The gradient of x, None unless asked for, and those of `factors`."""
    ranks = _ranks(layers)
    dprojected = torch.empty_like(kept.projected)
    for layer, dy, place in zip(layers, doutputs, dprojected.split(ranks, 1), strict=True):
        torch.mm(dy, layer.b.to(dy.dtype), out=place)
    dprojected.mul_(scale)
    dx = dprojected @ kept.a if for_input else None
    if dx is not None:
        for layer, dy in zip(layers, doutputs, strict=True):
            add_input_gradient(dx, dy, layer.weight)
    parts = kept.projected.split(ranks, 1)
    das = (dprojected.t() @ x).float().split(ranks)
    dbs = [(dy.t() @ part).float() for dy, part in zip(doutputs, parts, strict=True)]
    return dx, [*das, *dbs]


def _ranks(layers: Sequence[Changed]) -> list[int]:
    return [len(layer.a) for layer in layers]


def _stacked(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


class _LoRALinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Sequence[Changed], scale: float, *_: Tensor) -> tuple[Tensor, ...]:
        outputs, kept = products(x, layers, scale)
        ctx.save_for_backward(x, *kept)
        ctx.layers, ctx.scale = layers, scale
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *doutputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *kept = ctx.saved_tensors
        dx, learnt = gradients(doutputs, x, Kept(*kept), ctx.layers, ctx.scale, for_input=ctx.needs_input_grad[0])
        return dx, None, None, *learnt
