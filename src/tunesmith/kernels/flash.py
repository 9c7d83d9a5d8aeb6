"""Torch's flash attention over one long segment, forward and backward: it keeps no probabilities.

q: (length, heads, width), k, v: (shared + length, kv heads, width); the shared keys come first.
"""

import torch
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend(inputs: tuple[Tensor, ...], out: Tensor, num_shared: int, *, causal: bool, scale: float) -> Tensor:
    """Torch's flash attention; writes `out`, returns the log of the normalisers `(1, heads, length)`.

    It has no form for keys that stand before the queries, so shared keys take a pass of their own, in which all look at
    all; the two results are weighted by their normalisers.
    """
    q, k, v = inputs
    group = q.shape[1] // k.shape[1]
    result, normaliser = None, None
    for place, is_causal in _passes(num_shared, causal):
        keys, values = _heads_first(k[place], group), _heads_first(v[place], group)
        more, log_sum = _flash(_heads_first(q), keys, values, 0.0, is_causal, attn_mask=None, scale=scale)
        if result is None or normaliser is None:
            result, normaliser = more, log_sum
        else:
            total = torch.logaddexp(normaliser, log_sum)
            shares = ((t - total).exp()[..., None].to(q.dtype) for t in (normaliser, log_sum))
            result, normaliser = result * next(shares) + more * next(shares), total
    assert result is not None
    assert normaliser is not None
    out.copy_(result[0].transpose(0, 1))
    return normaliser


def write_gradients(
    inputs: tuple[Tensor, ...],
    result: tuple[Tensor, Tensor],
    dout: Tensor,
    outputs: tuple[Tensor, ...],
    *,
    causal: bool,
    scale: float,
) -> None:
    """Writes the gradients of one long segment; `result` is its whole output and normaliser, right for either pass."""
    (q, k, v), (dq, dk, dv), (out, normaliser) = inputs, outputs, result
    group = q.shape[1] // k.shape[1]
    for number, (place, is_causal) in enumerate(_passes(len(k) - len(q), causal)):
        keys, values = _heads_first(k[place], group), _heads_first(v[place], group)
        arguments = (_heads_first(dout), _heads_first(q), keys, values, _heads_first(out))
        gradients = _flash_backward(*arguments, normaliser, 0.0, is_causal, attn_mask=None, scale=scale)
        if number == 0:
            dq.copy_(gradients[0][0].transpose(0, 1))
        else:
            dq.add_(gradients[0][0].transpose(0, 1))
        for target, gradient in ((dk[place], gradients[1]), (dv[place], gradients[2])):
            summed = gradient[0] if group == 1 else gradient[0].unflatten(0, (-1, group)).sum(1)
            target.copy_(summed.transpose(0, 1))


def _heads_first(t: Tensor, group: int = 1) -> Tensor:
    """`(length, heads, width)` -> `(1, heads * group, length, width)`."""
    return (t if group == 1 else t.repeat_interleave(group, 1)).transpose(0, 1)[None]


def _passes(num_shared: int, causal: bool) -> list[tuple[slice, bool]]:
    """The keys of each pass, and whether it is causal."""
    own = (slice(num_shared, None), causal)
    return [own, (slice(0, num_shared), False)] if num_shared else [own]
