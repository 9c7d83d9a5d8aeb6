"""DoRA: learn the length of every row of a weight, and its direction by a low-rank change.

y = m * (W + s B A) x / |W + s B A|      A: (rank, d_in), B: (d_out, rank) zero, m: (d_out,) = |W| at the start; |.| of each row

The length below the bar takes no gradient (section 4.3 of the paper). It is computed without the full-size sum:
|W + s B A|^2 = |W|^2 + 2 s B . (W At) + s^2 (B A At) . B
where |W|^2 is found once, as W is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
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
from tunesmith.kernels.frozen_linear import add_products, row_squares
from tunesmith.method import Method
from tunesmith.model import anatomy, low_rank, surgery, weights


class DoRALinear(low_rank.LoRALinear):
    """A frozen linear layer with a low-rank change of its direction and a learnt length of every row."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, rank, scale, dropout)
        self._known_squares: Tensor | None = None
        self.magnitude = nn.Parameter(self._squares().sqrt())  # what `lengths` gives as long as B is zero, bitwise

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        y = super().forward(x)
        stretch = (self.magnitude / self.lengths().to(self.magnitude.dtype)).to(y.dtype)
        # One at the start, so that nothing is added to what the base gives: the start is the base model, bitwise.
        return y + (stretch - 1) * (y if self.bias is None else y - self.bias)

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """The length of every row of the changed weight, `(d_out,)`."""
        projected = self.a.new_zeros(len(self.a), len(self.b))
        add_products([projected], self.a, [weights.frozen(self.base)])
        changed = self.b @ (self.a @ self.a.t())
        cross = (self.b * projected.t()).sum(1)
        squares = self._squares() + 2 * self.scale * cross + self.scale**2 * (changed * self.b).sum(1)
        return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()

    def _squares(self) -> Tensor:
        """The squared length of every row of the base weight, `(d_out,)`, found once in the number format of A."""
        weight, known = weights.frozen(self.base), self._known_squares
        learns = isinstance(weight, Tensor) and weight.requires_grad  # somebody's own wish
        if known is None or learns or (known.dtype, known.device) != (self.a.dtype, self.a.device):
            known = self._known_squares = row_squares(weight, self.a.dtype)
        return known

    def merged_weight(self) -> Tensor:
        """The weight that does the same alone, `(d_out, d_in)` float64."""
        return super().merged_weight() * (self.magnitude / self.lengths()).double()[:, None]


@dataclass(frozen=True, kw_only=True)
class DoRA(Method, PeftFormat):
    """Weight-decomposed low-rank adaptation of linear layers."""

    name = "dora"
    paper = "https://arxiv.org/abs/2402.09353"
    learning_rate = 2e-4
    learning_rate_small = 1e-3
    peft_type = "LORA"
    peft_keeps_rows = True
    peft_marks: ClassVar[Mapping[str, object]] = {"use_dora": True}
    peft_keys = LOW_RANK_KEYS
    peft_ignored = LOW_RANK_IGNORED

    rank: int = 16
    """Rank of the change of direction; capacity and memory grow with it."""
    alpha: float = 32.0
    """Strength of the change of direction: it is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of the inputs of the change that are zeroed at random while training."""
    targets: tuple[str, ...] = (anatomy.ALL_LINEAR,)
    """Names of the layers to adapt (`q_proj v_proj`, patterns allowed), or `all-linear`."""
    scaling: Literal["standard", "rank-stabilized"] = "standard"
    """`standard` divides alpha by the rank, `rank-stabilized` by its square root."""

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 4096:
            raise SettingsError(f"method.rank must be between 1 and 4096, found {self.rank}.")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"method.dropout must be at least 0 and below 1, found {self.dropout}.")

    def attach(self, model: nn.Module) -> None:
        scale = self.alpha / (self.rank if self.scaling == "standard" else math.sqrt(self.rank))
        surgery.freeze(model)
        for path in anatomy.linear_targets(model, self.targets):
            surgery.replace(model, path, DoRALinear(model.get_submodule(path), self.rank, scale, self.dropout))
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
    ) -> tuple[DoRA, dict[str, Tensor]]:
        own = module_tensors(tensors, _NAMES_IN_PEFT)
        chosen = low_rank_settings(config, own, model)
        chosen["scaling"] = "rank-stabilized" if config.get("use_rslora") else "standard"
        return settings.from_mapping(cls, chosen, "adapter_config.json"), own


_NAMES_IN_PEFT = {"lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "magnitude"}
