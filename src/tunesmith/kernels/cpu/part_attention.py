"""Attention inside the parts of a stream by compiled code, one call for all parts; no probabilities are kept.

q: (queries, heads, width), k, v: (keys, kv heads, width); which queries see which keys: `segments.Table`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.kernels import by_device
from tunesmith.kernels.cpu import compiled

MOST_WIDTH = 128  # as in row_attention.c and short_attention.c
MOST_GROUPS = 8  # as in parts.h


@dataclass(frozen=True)
class Stream:
    """What is to be attended to, and how."""

    q: Tensor
    k: Tensor
    v: Tensor
    parts: Tensor
    """Those that the code takes, as in `segments.Table`."""
    causal: bool
    scale: float

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...], float]:
        """The inputs with the heads of a token beside each other; `stream` of parts.h; the scale."""
        q, k, v = (t if t.stride()[1:] == (t.shape[2], 1) else t.contiguous() for t in (self.q, self.k, self.v))
        heads, (_, kv_heads, width) = q.shape[1], k.shape
        rows = (q.stride(0), k.stride(0), v.stride(0))
        return q, k, v, (len(self.parts), kv_heads, heads // kv_heads, width, *rows, self.causal), float(self.scale)


@dataclass(frozen=True)
class Code:
    """One of two forms of the code."""

    name: str
    most_tokens: int
    """That one part may see; as in its C file."""

    def attend(self, stream: Stream, out: Tensor) -> None:
        """Writes the parts' rows of `out` `(queries, heads, width)`, which lies side by side."""
        q, k, v, sizes, scale = stream.arguments()
        compiled.call(f"{self.name}_forward", q.dtype, q, k, v, out, stream.parts, sizes, scale)

    def write_gradients(
        self, stream: Stream, dout: Tensor, outputs: tuple[Tensor, ...], sums: tuple[Tensor | None, ...]
    ) -> None:
        """Writes the gradients of the parts' own q, k and v, which lie side by side.

        What reaches shared keys and values is added to `sums`, two of `(shared, kv heads, width)` float32.
        """
        q, k, v, sizes, scale = stream.arguments()
        of_groups = [None if total is None else total.new_zeros(MOST_GROUPS, *total.shape) for total in sums]
        arguments = (q, k, v, dout.contiguous(), *outputs, *sums, *of_groups, stream.parts, sizes, scale)
        compiled.call(f"{self.name}_gradients", q.dtype, *arguments)


ROW = Code("row_attention", 512)
"""Products of pairs of bfloat16 numbers, sums in float32."""
SHORT = Code("short_attention", 64)
"""Products in float32 that stay in a core's own cache; longer parts are faster by torch's products."""


def code_for(q: Tensor, k: Tensor, v: Tensor) -> Code | None:
    """The code for such inputs, if there is some that beats torch's operations."""
    fits = q.dtype == k.dtype == v.dtype and q.shape[2] == v.shape[2] <= MOST_WIDTH
    if not fits or by_device.kind_for((q,)) != "cpu":
        return None
    return ROW if q.dtype == torch.bfloat16 and q.shape[2] % 2 == 0 and compiled.pairs_are_fast() else SHORT
