"""Frozen linear layers plus low-rank changes, forward and backward by hand; layers that read the same input go together.

y = x Wt + b + s (x At) Bt      x: (tokens, d_in), W: (d_out, d_in), A: (rank, d_in), B: (d_out, rank)

The tokens may fall into several parts, each with changes of its own: the product with W is one for all tokens, the small
products are one for each part.

Kept for the backward pass: x and s x At only, once for all layers that read x. A and B are cast to x's type once per
call, their gradients are summed in their own (float32); no full-size product is ever held besides the y and dx.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import pool
from tunesmith.kernels.by_device import by_device
from tunesmith.kernels.frozen_linear import FrozenWeight, add_input_gradient, add_products, in_autocast

ALL_TOKENS = (slice(None),)
"""One part that holds every token."""


class Change(NamedTuple):
    """A low-rank change of a weight, s B A; one of rank 0 changes nothing."""

    a: Tensor
    b: Tensor
    scale: float


class Changed(NamedTuple):
    """A frozen linear layer and its changes."""

    weight: FrozenWeight
    bias: Tensor | None
    changes: Sequence[Change]
    """One for each part of the tokens."""


class Readers(NamedTuple):
    """Layers that read the same input."""

    layers: Sequence[Changed]
    parts: Sequence[slice]
    """Which of the tokens the changes of each number are for; every token is in exactly one."""

    @property
    def by_part(self) -> list[tuple[slice, tuple[Change, ...]]]:
        """Each part with its change of every layer."""
        return list(zip(self.parts, zip(*(layer.changes for layer in self.layers), strict=True), strict=True))

    @property
    def factors(self) -> list[Tensor]:
        """The tensors that learn, as autograd functions take them: for each part all A, then all B."""
        return [factor for _, changes in self.by_part for factor in (*(c.a for c in changes), *(c.b for c in changes))]


class Kept(NamedTuple):
    """What the gradients of some layers with one input need besides that input, for one part of the tokens."""

    projected: Tensor
    """s x At of all layers beside each other, `(tokens, sum of ranks)`."""
    a: Tensor
    """The factors A on top of each other, `(sum of ranks, d_in)`, in x's type."""


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, change: Change) -> Tensor:
    """The obvious computation, which `lora_linear` must equal on every part."""
    a, b, scale = change
    return torch.nn.functional.linear(x, weight, bias) + scale * (x @ a.t().to(x.dtype) @ b.t().to(x.dtype))


def lora_linear(x: Tensor, layers: Sequence[Changed], parts: Sequence[slice] = ALL_TOKENS) -> tuple[Tensor, ...]:
    """Map `(..., d_in)` to `(..., d_out)` by every layer; gradients flow to x, the A and the B, never to a W or a bias."""
    readers = Readers(layers, parts)
    results = _LoRALinear.apply(in_autocast(x).reshape(-1, x.shape[-1]), readers, *readers.factors)
    return tuple(y.view(*x.shape[:-1], y.shape[-1]) for y in results)  # pyright: ignore[reportGeneralTypeIssues]


def products(x: Tensor, readers: Readers) -> tuple[list[Tensor], list[Kept]]:
    """What the layers make of x `(tokens, d_in)`, and for each part what `gradients` needs."""
    outputs = [pool.new_empty(x, len(x), layer.weight.shape[0]) for layer in readers.layers]
    biases = [layer.bias for layer in readers.layers]
    # The small products come first: added to an output that is already rounded to 16 bits, most of them would be lost.
    kept = [write_changes(x[part], [y[part] for y in outputs], changes, biases) for part, changes in readers.by_part]
    add_products(outputs, x, [layer.weight for layer in readers.layers])
    return outputs, kept


def gradients(
    doutputs: Sequence[Tensor], x: Tensor, kept: Sequence[Kept], readers: Readers, *, for_input: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """The gradient of x, None unless asked for, and those of the readers' factors."""
    dx = pool.empty_like(x) if for_input else None
    learnt = []
    for (part, changes), own in zip(readers.by_part, kept, strict=True):
        learnt += change_gradients(x[part], [dy[part] for dy in doutputs], own, changes, None if dx is None else dx[part])
    if dx is not None:
        for layer, dy in zip(readers.layers, doutputs, strict=True):
            add_input_gradient(dx, dy, layer.weight)
    return dx, learnt


def flat(kept: Sequence[Kept]) -> list[Tensor]:
    """The tensors of all parts, as autograd saves them."""
    return [tensor for own in kept for tensor in own]


def unflat(tensors: Sequence[Tensor]) -> list[Kept]:
    """What `flat` took apart."""
    return [Kept(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)]


@by_device
def write_changes(x: Tensor, outputs: Sequence[Tensor], changes: Sequence[Change], biases: Sequence[Tensor | None]) -> Kept:
    """Fill the outputs with s x At Bt + b."""
    a = _stacked([change.a for change in changes]).to(x.dtype)
    projected = x @ a.t()
    for y, change, bias, own in zip(outputs, changes, biases, projected.split(_ranks(changes), 1), strict=True):
        torch.mm(own.mul_(change.scale), change.b.t().to(x.dtype), out=y)
        if bias is not None:
            y.add_(bias)
    return Kept(projected, a)


@by_device
def change_gradients(
    x: Tensor, doutputs: Sequence[Tensor], kept: Kept, changes: Sequence[Change], dx: Tensor | None
) -> list[Tensor]:
    """The gradients of all A, then of all B; `dx`, if it is asked for, is filled with what reaches x by way of them."""
    dprojected = _projected_gradient(doutputs, kept, changes)
    if dx is not None:
        torch.mm(dprojected, kept.a, out=dx)
    return _factor_gradients(doutputs, x, dprojected, kept, changes)


def _projected_gradient(doutputs: Sequence[Tensor], kept: Kept, changes: Sequence[Change]) -> Tensor:
    """The gradient of x At of all layers beside each other."""
    result = torch.empty_like(kept.projected)
    for dy, change, own in zip(doutputs, changes, result.split(_ranks(changes), 1), strict=True):
        torch.mm(dy, change.b.to(dy.dtype), out=own).mul_(change.scale)
    return result


def _factor_gradients(
    doutputs: Sequence[Tensor], x: Tensor, dprojected: Tensor, kept: Kept, changes: Sequence[Change]
) -> list[Tensor]:
    """The gradients of all A, then of all B."""
    ranks = _ranks(changes)
    das = (dprojected.t() @ x).float().split(ranks)
    dbs = [(dy.t() @ own).float() for dy, own in zip(doutputs, kept.projected.split(ranks, 1), strict=True)]
    return [*das, *dbs]


def _ranks(changes: Sequence[Change]) -> list[int]:
    return [len(change.a) for change in changes]


def _stacked(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


class _LoRALinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, readers: Readers, *_: Tensor) -> tuple[Tensor, ...]:
        outputs, kept = products(x, readers)
        ctx.save_for_backward(x, *flat(kept))
        ctx.readers = readers
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *doutputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *kept = ctx.saved_tensors
        dx, learnt = gradients(doutputs, x, unflat(kept), ctx.readers, for_input=ctx.needs_input_grad[0])
        return dx, None, *learnt
