"""What the inputs of a head get of the slopes of their logits: dh = dz W."""

import torch
from torch import Tensor

from tunesmith.kernels.by_device import by_device


@by_device
def head_gradient(slopes: Tensor, weight: Tensor, scale: float, dhidden: Tensor) -> None:
    """Write dz W `(rows, hidden)`, of slopes dz `(rows, vocabulary)`, into `dhidden`; no slope is longer than `scale`."""
    torch.mm(slopes, weight, out=dhidden)
