"""LoRA: learn a low-rank change of a weight.

y = W x + s B A x      A: (rank, d_in), B: (d_out, rank), B = 0 at the start; s = alpha / rank, or alpha / sqrt(rank)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from tunesmith import settings
from tunesmith.errors import SettingsError
from tunesmith.interchange import (
    LOW_RANK_IGNORED,
    LOW_RANK_KEYS,
    PeftFormat,
    PeftParts,
    low_rank_parts,
    low_rank_settings,
    module_tensors,
)
from tunesmith.method import Method
from tunesmith.model import anatomy, low_rank, surgery
from tunesmith.model.low_rank import LoRALinear


@dataclass(frozen=True, kw_only=True)
class LoRA(Method, PeftFormat):
    """Low-rank adaptation of linear layers."""

    name = "lora"
    paper = "https://arxiv.org/abs/2106.09685"
    learning_rate = 2e-4
    learning_rate_small = 1e-3
    peft_type = "LORA"
    peft_keeps_rows = True
    peft_marks: ClassVar[Mapping[str, object]] = {"use_dora": False}
    peft_keys = LOW_RANK_KEYS
    peft_ignored = LOW_RANK_IGNORED

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

    b_rate: float = 1.0
    """How many times faster than A the factor B learns (LoRA+: 16)."""

    def __post_init__(self) -> None:
        if not 0 < self.b_rate <= 1000:
            raise SettingsError(f"method.b_rate must be above 0 and at most 1000, found {self.b_rate}.")
        if not 1 <= self.rank <= 4096:
            raise SettingsError(f"method.rank must be between 1 and 4096, found {self.rank}.")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"method.dropout must be at least 0 and below 1, found {self.dropout}.")

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return self.alpha / (self.rank if self.scaling == "standard" else math.sqrt(self.rank))

    def rate_of(self, parameter_name: str) -> float:
        return self.b_rate if parameter_name.endswith(".b") else 1.0

    def attach(self, model: nn.Module) -> None:
        surgery.freeze(model)
        for path in anatomy.linear_targets(model, self.targets):
            surgery.replace(model, path, LoRALinear(model.get_submodule(path), self.rank, self.scale, self.dropout))
        low_rank.unite(model)
        surgery.thaw(model, anatomy.new_head_parameters(model))

    def merge(self, model: nn.Module) -> None:
        low_rank.merge(model)

    def to_peft(self, model: nn.Module, trained: Mapping[str, Tensor]) -> PeftParts:
        parts = low_rank_parts(model, trained, _NAMES_IN_PEFT)
        parts.config.update(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, use_rslora=self.scaling != "standard"
        )
        return parts

    @classmethod
    def from_peft(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], model: nn.Module
    ) -> tuple[LoRA, dict[str, Tensor]]:
        own = module_tensors(tensors, _NAMES_IN_PEFT)
        chosen = low_rank_settings(config, own, model)
        chosen["scaling"] = "rank-stabilized" if config.get("use_rslora") else "standard"
        return settings.from_mapping(cls, chosen, "adapter_config.json"), own


_NAMES_IN_PEFT = {"lora_A.weight": "a", "lora_B.weight": "b"}
