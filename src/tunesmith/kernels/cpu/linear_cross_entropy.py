"""The losses of rows of logits and the gradients of their sum, a row at a time, in the logits' own memory."""

import torch
from torch import Tensor

from tunesmith.kernels.cpu.compiled import call


def losses_and_slopes(
    logits: Tensor, targets: Tensor, scale: float, softcap: float | None, *, for_gradients: bool
) -> tuple[Tensor, Tensor | None]:
    """See `tunesmith.kernels.linear_cross_entropy.losses_and_slopes`.

    Raises:
        IndexError: If a target has no logit.
    """
    logits, targets = logits.contiguous(), targets.long().contiguous()
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < logits.shape[1]:
        raise IndexError(f"targets from {targets.min()} to {targets.max()} for {logits.shape[1]} logits")
    losses = torch.empty(len(logits), 1, dtype=torch.float32)
    factors = (float(scale), float(softcap or 0.0))
    call("losses_and_slopes", logits.dtype, logits, targets, losses, *logits.shape, *factors, for_gradients)
    return losses, logits if for_gradients else None
