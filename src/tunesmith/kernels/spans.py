"""How many rows of a weight are worked on at once, where the whole would need too much memory."""

from collections.abc import Iterator

BLOCK = 64
"""Numbers that share a scale in four bits; no block lies in two spans."""
QUANTIZED_AT_ONCE = 2**18
"""Numbers; 1 MB of float32."""
_DEQUANTIZED_AT_ONCE = {"cpu": 2**23, "cuda": 2**24}  # numbers; a product with a part of the rows is slower for being cut


def dequantized_spans(d_out: int, d_in: int, device_type: str) -> Iterator[tuple[int, int]]:
    """(first, last) of groups of rows that are worth dequantising at once."""
    return spans(d_out, d_in, _DEQUANTIZED_AT_ONCE.get(device_type, _DEQUANTIZED_AT_ONCE["cpu"]))


def spans(d_out: int, d_in: int, num_numbers: int) -> Iterator[tuple[int, int]]:
    """(first, last) of groups of rows of about so many numbers; every group begins with a block."""
    step = max(BLOCK, num_numbers // d_in // BLOCK * BLOCK)
    for first in range(0, d_out, step):
        yield first, min(first + step, d_out)
