"""VeRA: learn two vectors that scale a random low-rank change, which all layers share and which never learns.

y = W x + b * (B (d * (A x)))      A: (rank, d_in), B: (d_out, rank) random; d: (rank,) 0.1, b: (d_out,) zero at the start

A and B of a layer are the first columns and rows of one random pair for the whole model, drawn from `seed` and not saved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith.errors import SettingsError
from tunesmith.method import Method
from tunesmith.model import anatomy, low_rank, surgery


class VeRALinear(low_rank.ChangedLinear):
    """A frozen linear layer with a scaled random change."""

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, start: float) -> None:
        super().__init__()
        d_in, d_out = anatomy.linear_sizes(base)
        self.base = base
        self.register_buffer("shared_a", a[:, :d_in], persistent=False)
        self.register_buffer("shared_b", b[:d_out], persistent=False)
        self.d = nn.Parameter(torch.full((len(a),), start, device=a.device, dtype=torch.float32))
        self.b = nn.Parameter(torch.zeros(d_out, device=a.device, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        a, b = (self.get_buffer(name).to(x.dtype) for name in ("shared_a", "shared_b"))
        return self.base(x) + (x @ a.t() * self.d.to(x.dtype)) @ b.t() * self.b.to(x.dtype)

    def merged_weight(self) -> Tensor:
        change = self.b[:, None] * ((self.get_buffer("shared_b") * self.d) @ self.get_buffer("shared_a"))
        return anatomy.linear_weight(self.base).double() + change.double()


@dataclass(frozen=True, kw_only=True)
class VeRA(Method):
    """Learnt scales of a shared random change of linear layers."""

    name = "vera"
    paper = "https://arxiv.org/abs/2310.11454"
    learning_rate = 2e-3
    learning_rate_small = 1e-2

    rank: int = 256
    """Rank of the random change; the learnt vectors have one number for each."""
    start: float = 0.1
    """What the scales of the inner numbers begin with."""
    seed: int = 0
    """Of the random change; a saved adapter needs the same again."""
    targets: tuple[str, ...] = (anatomy.ALL_LINEAR,)
    """Names of the layers to adapt (`q_proj v_proj`, patterns allowed), or `all-linear`."""

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 16384:
            raise SettingsError(f"method.rank must be between 1 and 16384, found {self.rank}.")

    def attach(self, model: nn.Module) -> None:
        paths = anatomy.linear_targets(model, self.targets)
        sizes = [anatomy.linear_sizes(model.get_submodule(path)) for path in paths]
        generator = torch.Generator().manual_seed(self.seed)
        a = _kaiming(self.rank, max(d_in for d_in, _ in sizes), generator).to(next(model.parameters()).device)
        b = _kaiming(max(d_out for _, d_out in sizes), self.rank, generator).to(a.device)
        surgery.freeze(model)
        for path in paths:
            surgery.replace(model, path, VeRALinear(model.get_submodule(path), a, b, self.start))
        surgery.thaw(model, anatomy.new_head_parameters(model))

    def merge(self, model: nn.Module) -> None:
        low_rank.merge(model)


def _kaiming(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Uniform, with the variance 2 / columns."""
    bound = math.sqrt(6 / columns)
    return torch.empty(rows, columns, device="cpu").uniform_(-bound, bound, generator=generator)
