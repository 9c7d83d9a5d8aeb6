"""What the inputs of a head get of the slopes of their logits: dh = dz W."""

import torch
from torch import Tensor

from tunesmith.kernels.by_device import by_device, kind_for
from tunesmith.kernels.cpu import compiled


@by_device
def head_gradient(slopes: Tensor, weight: Tensor, scale: float, dhidden: Tensor) -> None:
    """Write dz W `(rows, hidden)`, of slopes dz `(rows, vocabulary)`, into `dhidden`; no slope is longer than `scale`."""
    torch.mm(slopes, weight, out=dhidden)


def leaves_out(dtype: torch.dtype) -> bool:
    """Whether a processor leaves out products with unlikely words in this format, as its threads are now."""
    return dtype == torch.bfloat16 and kind_for((torch.empty(0, dtype=dtype),)) == "cpu" and compiled.pairs_are_fast()
