"""Rotary position embedding, in one pass over the numbers; tensors are read where they lie."""

import torch
from torch import Tensor

from tunesmith.kernels import pool
from tunesmith.kernels.cpu.compiled import call


def turn(x: Tensor, cos: Tensor, sin: Tensor, *, backward: bool) -> Tensor:
    """See `tunesmith.kernels.rotary.turn`; at most four axes."""
    dtype = torch.promote_types(x.dtype, cos.dtype)
    x, cos, sin = (_with_rows(t.to(dtype)) for t in (x, cos, sin))
    y = pool.empty_like(x)
    tensors = [t[(None,) * (4 - t.ndim)] for t in (x, cos.expand(x.shape), sin.expand(x.shape), y)]
    strides = [stride for t in tensors for stride in t.stride()[:-1]]
    call("rotary_turn", dtype, *tensors, tensors[0].shape, strides, backward)
    return y


def _with_rows(t: Tensor) -> Tensor:
    """The numbers of a head beside each other."""
    return t if t.stride(-1) == 1 else t.contiguous()
