"""Cross-entropy of a linear head over a large vocabulary, a few rows at a time, never holding `(rows, vocabulary)`.

loss = sum over rows of  logsumexp(z) - z[target],   z = cap(scale (W h + b)),  cap(z) = softcap tanh(z / softcap)

The gradient of a row depends on that row alone, so it is made in the forward pass while its logits are at hand:
two products with W in all, and only `(rows, hidden)` is kept for the backward pass.
"""

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels import pool
from tunesmith.kernels.by_device import by_device
from tunesmith.kernels.head_gradient import head_gradient

CHUNK_ELEMENTS_CPU = 8 * 2**20  # float32 logits of one chunk: 32 MB, about a last-level cache
CHUNK_ELEMENTS_ACCELERATOR = 256 * 2**20
PART_ELEMENTS_CPU = (
    2**20
)  # logits that are made probabilities at once: they stay in a core's cache, and no second chunk is held


@dataclass(frozen=True)
class Head:
    """A linear map to logits, `weight` `(vocabulary, hidden)`, with the known scalings."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


def plain(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """The obvious computation, which `linear_cross_entropy` must equal."""
    return torch.nn.functional.cross_entropy(row_logits(hidden, head), targets, reduction="sum")


def linear_cross_entropy(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """The summed loss (nats, float32 scalar) of `hidden` `(rows, hidden)` against `targets` `(rows,)`."""
    return _LinearCrossEntropy.apply(hidden, head.weight, head.bias, targets, head.scale, head.softcap)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def row_losses(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """The loss of every row, `(rows,)` float32, without gradients."""
    losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    for part in _chunks(hidden, head.weight):
        logits = _logits(hidden[part], head.weight, head.bias)
        found, _ = losses_and_slopes(logits, targets[part], head.scale, head.softcap, for_gradients=False)
        losses[part] = found[:, 0]
    return losses


def row_logits(hidden: Tensor, head: Head) -> Tensor:
    """Logits `(rows, vocabulary)` in float32, for few rows; may be differentiated."""
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias).float()
    logits = logits if head.scale == 1.0 else logits * head.scale  # a copy of them is large
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    budget = CHUNK_ELEMENTS_CPU if hidden.device.type == "cpu" else CHUNK_ELEMENTS_ACCELERATOR
    size = max(16, budget // weight.shape[0])
    num_chunks = max(1, -(-len(hidden) // size))
    size = -(-len(hidden) // num_chunks) if len(hidden) else size  # equal chunks: no thin last one
    return [slice(i, i + size) for i in range(0, len(hidden), size)]


_places = threading.local()
"""Where a processor's logits of one chunk lie, for each thread.

They are larger than all else that a pass makes. What they leave others divide, so that the next chunk would take new memory.
"""


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W h + b of one chunk, `(rows, vocabulary)`; on a processor they are there until the next chunk."""
    rows, vocabulary = len(hidden), len(weight)
    if hidden.device.type != "cpu":
        return torch.nn.functional.linear(hidden, weight, bias)
    place = getattr(_places, "numbers", None)
    if place is None or place.dtype != hidden.dtype or len(place) < rows * vocabulary:
        _places.numbers = place = None  # not two at once
        _places.numbers = place = hidden.new_empty(max(rows * vocabulary, CHUNK_ELEMENTS_CPU))
    logits = place[: rows * vocabulary].view(rows, vocabulary)
    return torch.mm(hidden, weight.t(), out=logits) if bias is None else torch.addmm(bias, hidden, weight.t(), out=logits)


@by_device
def losses_and_slopes(
    logits: Tensor, targets: Tensor, scale: float, softcap: float | None, *, for_gradients: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss of every row of W h + b, `(rows, 1)` float32, and if asked the gradient of their sum.

    The gradient has the shape and type of the logits and may lie in their memory.
    """
    losses = torch.empty(len(logits), 1, dtype=torch.float32, device=logits.device)
    size = max(1, PART_ELEMENTS_CPU // logits.shape[1] if logits.device.type == "cpu" else len(logits))
    for start in range(0, len(logits), size):
        part = slice(start, start + size)
        log_shares, capped = _log_shares(logits[part], scale, softcap, exact=not for_gradients)
        chosen = targets[part, None]
        losses[part] = -log_shares.gather(1, chosen)
        if for_gradients:
            logits[part] = _slopes(log_shares, capped, chosen, scale, softcap)
    return losses, logits if for_gradients else None


def _log_shares(logits: Tensor, scale: float, softcap: float | None, *, exact: bool) -> tuple[Tensor, Tensor]:
    """The logarithms of the probabilities, and z."""
    # Logits that are computed with, or reported, are made float32 first; else their own type keeps a loss near zero exact too.
    capped = logits.float() if exact or scale != 1.0 or softcap is not None else logits
    if scale != 1.0:
        capped = capped * scale
    if softcap is not None:
        capped = softcap * torch.tanh(capped / softcap)
    return torch.log_softmax(capped, -1), capped


def _slopes(log_shares: Tensor, capped: Tensor, chosen: Tensor, scale: float, softcap: float | None) -> Tensor:
    """The gradient of W h + b, made of the logarithms, whose memory is used."""
    slopes = log_shares.exp_()
    slopes.scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=slopes.dtype))
    if softcap is not None:
        slopes.mul_((capped / softcap).square_().neg_().add_(1))
    return slopes.mul_(scale) if scale != 1.0 else slopes


def _stored(dweight: Tensor, dtype: torch.dtype) -> Tensor:
    return dweight if dweight.dtype == dtype else pool.new_empty(dweight, *dweight.shape, dtype=dtype).copy_(dweight)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a b to a float32 total; in float32 without making the product, which is as large as the head."""
    if a.dtype == b.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, softcap: float | None
    ) -> Tensor:
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        dhidden = pool.empty_like(hidden) if need_hidden else None
        dweight = pool.new_empty(weight, *weight.shape, dtype=torch.float32).zero_() if need_weight else None
        dbias = torch.zeros_like(weight[:, 0], dtype=torch.float32) if need_bias else None
        total = torch.zeros((), dtype=torch.float64 if hidden.device.type == "cpu" else torch.float32, device=hidden.device)
        for_gradients = need_hidden or need_weight or need_bias
        for part in _chunks(hidden, weight):
            logits = _logits(hidden[part], weight, bias)
            losses, dlogits = losses_and_slopes(logits, targets[part], scale, softcap, for_gradients=for_gradients)
            total += losses.sum()
            if dlogits is None:
                continue
            if dhidden is not None:
                head_gradient(dlogits, weight, scale, dhidden[part])
            if dweight is not None:
                _add_product(dweight, dlogits.t(), hidden[part])
            if dbias is not None:
                dbias.add_(dlogits.sum(0))
        ctx.gradients = dhidden, dweight, dbias
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        dhidden, dweight, dbias = ctx.gradients
        ctx.gradients = None
        weight_dtype, bias_dtype = ctx.dtypes
        factor = float(dloss) if dloss.device.type == "cpu" else dloss
        return (
            None if dhidden is None else dhidden.mul_(factor),
            None if dweight is None else _stored(dweight.mul_(factor), weight_dtype),
            None if dbias is None else dbias.mul_(factor).to(bias_dtype),
            *(None, None, None),
        )
