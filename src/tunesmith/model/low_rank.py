"""A frozen linear layer plus a low-rank change, for all methods that learn one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tunesmith.errors import NotMergeable
from tunesmith.kernels.lora_linear import lora_linear
from tunesmith.model import anatomy, surgery, weights


class ChangedLinear(nn.Module):
    """A frozen linear layer, `base`, and a change of its weight."""

    base: nn.Module

    @property
    def weight(self) -> Tensor:
        """The frozen weight, as stored; some models look at its data type."""
        return anatomy.stored_weight(self.base)

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias, `(d_out,)`."""
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    def merged_weight(self) -> Tensor:
        """The weight that does the same alone, `(d_out, d_in)` float64."""
        raise NotImplementedError


class LoRALinear(ChangedLinear):
    """y = W x + s B A x      A: (rank, d_in) Kaiming-uniform, B: (d_out, rank) zero at the start."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        d_in, d_out = anatomy.linear_sizes(base)
        device = anatomy.device_of(base)
        self.base, self.scale, self.dropout = base, scale, nn.Dropout(dropout)
        self.a = nn.Parameter(torch.empty(rank, d_in, device=device, dtype=torch.float32))
        self.b = nn.Parameter(torch.zeros(d_out, rank, device=device, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as in the paper's code

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        if self.dropout.p and self.training:
            return self.base(x) + self.scale * (self.dropout(x) @ self.a.t().to(x.dtype) @ self.b.t().to(x.dtype))
        return lora_linear(x, weights.frozen(self.base), self.bias, self.a, self.b, self.scale)

    def merged_weight(self) -> Tensor:
        return anatomy.linear_weight(self.base).double() + (self.scale * self.b @ self.a).double()


def layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers with a low-rank change, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)}


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Give every layer its merged weight and take the changes away.

    Raises:
        NotMergeable: If a weight is also used at another place.
    """
    changed = {path: module for path, module in model.named_modules() if isinstance(module, ChangedLinear)}
    for path in (path for path, layer in changed.items() if anatomy.is_tied(model, layer.base)):
        raise NotMergeable(f"{path!r} shares its weight with the embeddings, which would change too. Keep the adapter.")
    for layer in changed.values():
        weight = weights.writable(layer.base)
        weight.copy_(layer.merged_weight().to(weight.dtype))
    surgery.detach(model)
