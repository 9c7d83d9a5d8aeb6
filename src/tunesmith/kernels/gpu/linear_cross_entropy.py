"""Cross-entropy of a chunk of logits: two passes over a row, the second of which writes the gradients in their place.

A program takes one row. The first pass finds the normaliser as it goes, the second reads each logit and overwrites it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096  # logits at once


@triton.jit
def _logits(logits, places, inside, scale, softcap, CAPPED: tl.constexpr):
    z = tl.load(logits + places, inside, 0.0).to(tl.float32) * scale
    if CAPPED:
        z = softcap * (2.0 * tl.sigmoid(2.0 * z / softcap) - 1.0)  # tanh
    return z


@triton.jit
def _cross_entropy(
    logits, targets, losses, vocabulary, scale, softcap,
    CAPPED: tl.constexpr, FOR_GRADIENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocabulary
    target = tl.load(targets + row)
    largest, total, chosen = float("-inf"), 0.0, 0.0
    for start in range(0, vocabulary, BLOCK):
        places = start + tl.arange(0, BLOCK)
        inside = places < vocabulary
        z = tl.where(inside, _logits(logits, places, inside, scale, softcap, CAPPED), float("-inf"))
        above = tl.maximum(largest, tl.max(z, 0))
        total = total * tl.exp(largest - above) + tl.sum(tl.exp(z - above), 0)
        chosen += tl.sum(tl.where(places == target, z, 0.0), 0)
        largest = above
    normaliser = largest + tl.log(total)
    tl.store(losses + row, normaliser - chosen)
    if FOR_GRADIENTS:
        for start in range(0, vocabulary, BLOCK):
            places = start + tl.arange(0, BLOCK)
            inside = places < vocabulary
            z = _logits(logits, places, inside, scale, softcap, CAPPED)
            slope = tl.exp(z - normaliser) - tl.where(places == target, 1.0, 0.0)
            if CAPPED:
                slope *= 1.0 - (z / softcap) * (z / softcap)
            tl.store(logits + places, (slope * scale).to(logits.dtype.element_ty), inside)


def losses_and_slopes(
    logits: Tensor, targets: Tensor, scale: float, softcap: float | None, *, for_gradients: bool
) -> tuple[Tensor, Tensor | None]:
    """See `tunesmith.kernels.linear_cross_entropy.losses_and_slopes`."""
    logits = logits.contiguous()
    rows, vocabulary = logits.shape
    losses = torch.empty(rows, 1, dtype=torch.float32, device=logits.device)
    if rows:
        _cross_entropy[(rows,)](
            *(logits, targets.contiguous(), losses, vocabulary, scale, softcap or 1.0),
            CAPPED=softcap is not None,
            FOR_GRADIENTS=for_gradients,
            BLOCK=min(_BLOCK, triton.next_power_of_2(vocabulary)),
            num_warps=8,
        )
    return losses, logits if for_gradients else None
