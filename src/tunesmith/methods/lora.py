"""LoRA: learn a low-rank change of a weight.

y = W x + s B A x      A: (rank, d_in), B: (d_out, rank), B = 0 at the start; s = alpha / rank, or alpha / sqrt(rank)
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tunesmith.errors import SettingsError
from tunesmith.kernels.lora_linear import lora_linear
from tunesmith.method import Method
from tunesmith.model import anatomy, surgery


class LoRALinear(nn.Module):
    """A frozen linear layer plus its low-rank change."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        d_in, d_out = anatomy.linear_sizes(base)
        device = next(base.parameters()).device
        self.base, self.scale, self.dropout = base, scale, nn.Dropout(dropout)
        self.a = nn.Parameter(torch.empty(rank, d_in, device=device, dtype=torch.float32))
        self.b = nn.Parameter(torch.zeros(d_out, rank, device=device, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as in the paper's code

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        if self.dropout.p and self.training:
            return self.base(x) + self.scale * (self.dropout(x) @ self.a.t().to(x.dtype) @ self.b.t().to(x.dtype))
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return lora_linear(x, anatomy.linear_weight(self.base), bias, self.a, self.b, self.scale)

    def delta(self) -> Tensor:
        """The change of the weight, `(d_out, d_in)`."""
        return self.scale * self.b @ self.a


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """Low-rank adaptation of linear layers."""

    name = "lora"
    paper = "https://arxiv.org/abs/2106.09685"
    learning_rate = 2e-4
    learning_rate_small = 1e-3

    rank: int = 16
    """Rank of the change; capacity and memory grow with it."""
    alpha: float = 32.0
    """Strength of the change: it is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of the inputs of the change that are zeroed at random while training."""
    targets: tuple[str, ...] = (anatomy.ALL_LINEAR,)
    """Names of the layers to adapt (`q_proj v_proj`, patterns allowed), or `all-linear`."""
    scaling: Literal["standard", "rank-stabilized"] = "standard"
    """`standard` divides alpha by the rank, `rank-stabilized` by its square root (rsLoRA)."""

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 4096:
            raise SettingsError(f"method.rank must be between 1 and 4096, found {self.rank}.")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"method.dropout must be at least 0 and below 1, found {self.dropout}.")

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return self.alpha / (self.rank if self.scaling == "standard" else math.sqrt(self.rank))

    def attach(self, model: nn.Module) -> None:
        surgery.freeze(model)
        for path in anatomy.linear_targets(model, self.targets):
            surgery.replace(model, path, LoRALinear(model.get_submodule(path), self.rank, self.scale, self.dropout))
        surgery.thaw(model, anatomy.new_head_parameters(model))

    @torch.no_grad()
    def merge(self, model: nn.Module) -> None:
        for layer in [m for m in model.modules() if isinstance(m, LoRALinear)]:
            weight = anatomy.linear_weight(layer.base)
            weight.copy_((weight.double() + layer.delta().double()).to(weight.dtype))
        surgery.detach(model)
