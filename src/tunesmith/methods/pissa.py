"""PiSSA: low-rank adaptation that starts from the strongest directions of a weight instead of from nothing.

y = W x + (B A - B_0 A_0) x      A: (rank, d_in), B: (d_out, rank), equal to A_0 and B_0 at the start

B_0 A_0 is W along its strongest `rank` singular directions, so this is (W - B_0 A_0) x + B A x with W left as it is. Only the
product of B_0 and A_0 enters, which their signs do not change, so they are found again and not saved. To PEFT the difference of
the two products is LoRA of twice the rank, and as that it is saved for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith.errors import SettingsError
from tunesmith.interchange import ForPeft, PeftParts, low_rank_parts
from tunesmith.method import Method
from tunesmith.model import anatomy, low_rank, surgery


class PiSSALinear(low_rank.ChangedLinear):
    """A frozen linear layer whose strongest directions learn."""

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        self.base, self.rank = base, rank
        left, strengths, right = torch.linalg.svd(anatomy.linear_weight(base).detach().float(), full_matrices=False)
        roots = strengths[:rank].sqrt()
        self.register_buffer("first_a", (roots[:, None] * right[:rank]).contiguous(), persistent=False)
        self.register_buffer("first_b", (left[:, :rank] * roots).contiguous(), persistent=False)
        self.a = nn.Parameter(self.get_buffer("first_a").clone())
        self.b = nn.Parameter(self.get_buffer("first_b").clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        a, b, first_a, first_b = (t.to(x.dtype).t() for t in (self.a, self.b, *self._first()))
        # Two products of one form, so that their difference is exactly zero at the start.
        return self.base(x) + (x @ a @ b - x @ first_a @ first_b)

    def merged_weight(self) -> Tensor:
        first_a, first_b = self._first()
        return anatomy.linear_weight(self.base).double() + (self.b @ self.a - first_b @ first_a).double()

    def as_one_change(self) -> tuple[Tensor, Tensor]:
        """A of `(2 rank, d_in)` and B of `(d_out, 2 rank)` whose product is the change.

        A small weight has fewer directions than the rank; zeros stand for those that it lacks.
        """
        first_a, first_b = self._first()
        missing = 2 * (self.rank - len(first_a))
        a, b = torch.cat((self.a.detach(), first_a)), torch.cat((self.b.detach(), -first_b), dim=1)
        return torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing))

    def _first(self) -> tuple[Tensor, Tensor]:
        return self.get_buffer("first_a"), self.get_buffer("first_b")


@dataclass(frozen=True, kw_only=True)
class PiSSA(Method, ForPeft):
    """Low-rank adaptation of the principal singular directions of linear layers."""

    name = "pissa"
    paper = "https://arxiv.org/abs/2404.02948"
    learning_rate = 2e-4
    learning_rate_small = 2e-4  # 1e-3 is too fast for its strong directions (docs/log.md)
    peft_type = "LORA"

    rank: int = 16
    """How many directions learn; capacity and memory grow with it."""
    targets: tuple[str, ...] = (anatomy.ALL_LINEAR,)
    """Names of the layers to adapt (`q_proj v_proj`, patterns allowed), or `all-linear`."""

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 4096:
            raise SettingsError(f"method.rank must be between 1 and 4096, found {self.rank}.")

    def attach(self, model: nn.Module) -> None:
        surgery.freeze(model)
        for path in anatomy.linear_targets(model, self.targets):
            surgery.replace(model, path, PiSSALinear(model.get_submodule(path), self.rank))
        surgery.thaw(model, anatomy.new_head_parameters(model))

    def merge(self, model: nn.Module) -> None:
        low_rank.merge(model)

    def to_peft(self, model: nn.Module, trained: Mapping[str, Tensor]) -> PeftParts:
        layers = {path: layer for path, layer in low_rank.changed(model).items() if isinstance(layer, PiSSALinear)}
        changes = {path: layer.as_one_change() for path, layer in layers.items()}
        factors = {f"{path}.{name}": factor for path, pair in changes.items() for name, factor in zip("ab", pair, strict=True)}
        parts = low_rank_parts(model, {**trained, **factors}, {"lora_A.weight": "a", "lora_B.weight": "b"})
        parts.config.update(r=2 * self.rank, lora_alpha=2 * self.rank, lora_dropout=0.0, use_rslora=False, use_dora=False)
        return parts
