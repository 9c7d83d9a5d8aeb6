"""Attention over one segment in bfloat16: products of pairs, sums in float32, and no probabilities are kept.

q: (length, heads, width), k, v: (seen, kv heads, width); the last `length` of what is seen are the queries' own.
"""

import torch
from torch import Tensor

from tunesmith.kernels import by_device
from tunesmith.kernels.cpu import compiled
from tunesmith.kernels.cpu.short_attention import by_rows, sizes

MOST_TOKENS = 512  # as in row_attention.c
MOST_WIDTH = 128


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether a segment is of this form, and code that is compiled here beats torch's products."""
    fits = max(len(q), len(k)) <= MOST_TOKENS and q.shape[2] == v.shape[2] <= MOST_WIDTH and q.shape[2] % 2 == 0
    return (
        fits
        and q.dtype == k.dtype == v.dtype == torch.bfloat16
        and by_device.kind_for((q,)) == "cpu"
        and compiled.pairs_are_fast()
    )


def attend(inputs: tuple[Tensor, ...], out: Tensor, *, causal: bool, scale: float) -> None:
    """Writes `out` `(length, heads, width)`, which lies side by side."""
    q, k, v = map(by_rows, inputs)
    compiled.call("row_attention_forward", q.dtype, q, k, v, out, sizes(q, k, v, causal), float(scale))


def write_gradients(
    inputs: tuple[Tensor, ...], dout: Tensor, outputs: tuple[Tensor, ...], *, causal: bool, scale: float
) -> None:
    """Writes the gradients of q, k and v, which lie side by side."""
    q, k, v = map(by_rows, inputs)
    arguments = (q, k, v, dout.contiguous(), *outputs, sizes(q, k, v, causal), float(scale))
    compiled.call("row_attention_gradients", q.dtype, *arguments)
