"""Attention over one short segment: every head's products, in float32, stay in a core's own cache; no probabilities are kept.

q: (length, heads, width), k, v: (seen, kv heads, width); the last `length` of what is seen are the queries' own.
"""

from torch import Tensor

from tunesmith.kernels import by_device
from tunesmith.kernels.cpu.compiled import call

MOST_TOKENS = 64  # more are faster by products in 16 bits; as in short_attention.c
MOST_WIDTH = 128


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether a segment is of this form and compiled code is there."""
    fits = max(len(q), len(k)) <= MOST_TOKENS and q.shape[2] == v.shape[2] <= MOST_WIDTH
    return fits and q.dtype == k.dtype == v.dtype and by_device.kind_for((q,)) == "cpu"


def attend(inputs: tuple[Tensor, ...], out: Tensor, *, causal: bool, scale: float) -> None:
    """Writes `out` `(length, heads, width)`, which lies side by side."""
    q, k, v = map(by_rows, inputs)
    call("short_attention_forward", q.dtype, q, k, v, out, sizes(q, k, v, causal), float(scale))


def write_gradients(
    inputs: tuple[Tensor, ...], dout: Tensor, outputs: tuple[Tensor, ...], *, causal: bool, scale: float
) -> None:
    """Writes the gradients of q, k and v, which lie side by side."""
    q, k, v = map(by_rows, inputs)
    call("short_attention_gradients", q.dtype, q, k, v, dout.contiguous(), *outputs, sizes(q, k, v, causal), float(scale))


def sizes(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[int, ...]:
    """As `sizes` of short_attention.c."""
    (length, heads, width), (seen, kv_heads, _) = q.shape, k.shape
    return (length, seen, kv_heads, heads // kv_heads, width, q.stride(0), k.stride(0), v.stride(0), causal)


def by_rows(t: Tensor) -> Tensor:
    """The heads of a token beside each other."""
    return t if t.stride()[1:] == (t.shape[2], 1) else t.contiguous()
