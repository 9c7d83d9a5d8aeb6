"""Attention's probabilities, in the scores' own memory."""

from torch import Tensor

from tunesmith.kernels.cpu.compiled import call


def probabilities(scores: Tensor, mask: Tensor | None) -> Tensor:
    """See `tunesmith.kernels.attention.probabilities`."""
    heads, rows, keys = scores.shape
    tokens, masked = (rows, 0) if mask is None else mask.shape
    mask = None if mask is None else mask.to(scores.dtype).contiguous()
    call("attention_probabilities", scores.dtype, scores, mask, heads, tokens, rows // tokens, keys, masked)
    return scores
