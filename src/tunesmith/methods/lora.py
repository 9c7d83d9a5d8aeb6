"""LoRA: learn a low-rank change of a weight.

y = W x + s B A x      A: (rank, d_in), B: (d_out, rank), B = 0 at the start; s = alpha / rank, or alpha / sqrt(rank)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from tunesmith import settings
from tunesmith.errors import ModelError, NotMergeable, SettingsError
from tunesmith.interchange import PREFIX, PeftFormat, PeftParts, module_tensors, refuse_pattern, target_modules
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

    @property
    def weight(self) -> Tensor:
        """The frozen weight, as stored; some models look at its data type."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    def delta(self) -> Tensor:
        """The change of the weight, `(d_out, d_in)`."""
        return self.scale * self.b @ self.a


@dataclass(frozen=True, kw_only=True)
class LoRA(Method, PeftFormat):
    """Low-rank adaptation of linear layers."""

    name = "lora"
    paper = "https://arxiv.org/abs/2106.09685"
    learning_rate = 2e-4
    learning_rate_small = 1e-3
    peft_type = "LORA"
    peft_marks: ClassVar[Mapping[str, object]] = {"use_dora": False}
    peft_keys = frozenset(
        {"r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"}
    )
    peft_ignored = frozenset({"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"})
    peft_ignored |= {"megatron_core", "qalora_group_size", "eva_config", "runtime_config"}

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
        layers = {path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)}
        for path in (path for path, layer in layers.items() if anatomy.is_tied(model, layer.base)):
            raise NotMergeable(f"{path!r} shares its weight with the embeddings, which would change too. Keep the adapter.")
        for layer in layers.values():
            weight = anatomy.linear_weight(layer.base)
            weight.copy_((weight.double() + layer.delta().double()).to(weight.dtype))
        surgery.detach(model)

    def to_peft(self, model: nn.Module, trained: Mapping[str, Tensor]) -> PeftParts:
        layers = {path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)}
        own = {f"{path}.{ours}": f"{PREFIX}{path}.{theirs}" for path in layers for theirs, ours in _NAMES_IN_PEFT.items()}
        config = {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.scaling != "standard",
            "target_modules": target_modules(model, list(layers)),
            "fan_in_fan_out": any(anatomy.stores_inputs_first(layer.base) for layer in layers.values()),
        }
        tensors = {theirs: trained[ours] for ours, theirs in own.items()}
        return PeftParts(config, tensors, {name: tensor for name, tensor in trained.items() if name not in own})

    @classmethod
    def from_peft(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], model: nn.Module
    ) -> tuple[LoRA, dict[str, Tensor]]:
        refuse_pattern(config, "rank_pattern", "r")
        refuse_pattern(config, "alpha_pattern", "lora_alpha")
        if (start := config.get("init_lora_weights", True)) not in _STARTS_BESIDE_THE_BASE:
            raise ModelError(f"The adapter's 'init_lora_weights' {start!r} has changed the base weights. It is refused.")
        own = module_tensors(tensors, _NAMES_IN_PEFT)
        paths = sorted({name.rpartition(".")[0] for name in own})
        everything = sorted(anatomy.linear_targets(model, (anatomy.ALL_LINEAR,)))
        chosen = {
            "rank": config.get("r"),
            "alpha": config.get("lora_alpha"),
            "dropout": config.get("lora_dropout", 0.0),
            "scaling": "rank-stabilized" if config.get("use_rslora") else "standard",
            "targets": [anatomy.ALL_LINEAR] if paths == everything else paths,
        }
        return settings.from_mapping(cls, chosen, "adapter_config.json"), own


_NAMES_IN_PEFT = {"lora_A.weight": "a", "lora_B.weight": "b"}
_STARTS_BESIDE_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")
