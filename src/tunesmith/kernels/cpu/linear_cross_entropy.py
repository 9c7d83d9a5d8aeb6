"""The losses of rows of logits and the gradients of their sum, a row at a time, in the logits' own memory."""

import torch
from torch import Tensor

from tunesmith.kernels.cpu.compiled import call


def losses_and_slopes(
    logits: Tensor, targets: Tensor, scale: float, softcap: float | None, *, for_gradients: bool
) -> tuple[Tensor, Tensor | None]:
    """See `tunesmith.kernels.linear_cross_entropy.losses_and_slopes`."""
    logits, targets = logits.contiguous(), targets.contiguous()
    losses = torch.empty(len(logits), 1)
    factors = (float(scale), float(softcap or 0.0))
    call("losses_and_slopes", logits.dtype, logits, targets, losses, *logits.shape, *factors, for_gradients)
    return losses, logits if for_gradients else None
