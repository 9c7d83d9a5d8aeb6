"""Bottleneck adapters: a small network with a skip connection behind, or beside, the sub-layers of every layer.

behind:  h' = h + s (U f(D h + b_D) + b_U)      h: the sub-layer's output before the model adds it to what came in
beside:  h' = h + s (U f(D x + b_D) + b_U)      x: the sub-layer's input

D: (width, hidden) Kaiming-uniform, U: (hidden, width) and both biases 0, so that the start is the base model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tunesmith.errors import NoSuchTarget, SettingsError
from tunesmith.method import Method
from tunesmith.model import anatomy, roles, surgery

_ACTIVATIONS = {"gelu": nn.functional.gelu, "relu": nn.functional.relu, "silu": nn.functional.silu}


class Bottleneck(nn.Module):
    """What is added to a hidden state."""

    def __init__(self, hidden: int, settings: Adapter, device: torch.device) -> None:
        super().__init__()
        width = settings.width if settings.reduction is None else max(1, hidden // settings.reduction)
        self.norm = nn.LayerNorm(hidden, device=device) if settings.normalise else None
        self.down = nn.Parameter(torch.empty(width, hidden, device=device, dtype=torch.float32))
        self.down_bias = nn.Parameter(torch.zeros(width, device=device, dtype=torch.float32))
        self.up = nn.Parameter(torch.zeros(hidden, width, device=device, dtype=torch.float32))
        self.up_bias = nn.Parameter(torch.zeros(hidden, device=device, dtype=torch.float32))
        self.activation, self.scale = settings.activation, settings.scale
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., hidden)` to the same shape, in the data type of `x`."""
        inner = x if self.norm is None else self.norm(x.float()).to(x.dtype)
        inner = nn.functional.linear(inner, self.down.to(x.dtype), self.down_bias.to(x.dtype))
        inner = _ACTIVATIONS[self.activation](inner)
        return self.scale * nn.functional.linear(inner, self.up.to(x.dtype), self.up_bias.to(x.dtype))


class Passage:
    """Carries a sub-layer's input from its first layer to its last, within one forward pass."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def take(self) -> Tensor:
        """What was put in; it is not kept."""
        value, self.value = self.value, None
        assert value is not None
        return value


class ReadingLinear(nn.Module):
    """A frozen linear layer that passes its input on."""

    def __init__(self, base: nn.Module, passage: Passage) -> None:
        super().__init__()
        self.base, self.passage = base, passage

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        self.passage.value = x
        return self.base(x)


class AdaptedLinear(nn.Module):
    """A frozen linear layer, the last of its sub-layer, with a bottleneck behind it or beside the sub-layer."""

    def __init__(self, base: nn.Module, settings: Adapter, passage: Passage | None = None) -> None:
        super().__init__()
        self.base, self.passage = base, passage
        self.bottleneck = Bottleneck(anatomy.linear_sizes(base)[1], settings, anatomy.device_of(base))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., hidden)`."""
        h = self.base(x)
        return h + self.bottleneck(h if self.passage is None else self.passage.take())

    @property
    def weight(self) -> Tensor:
        """The frozen weight, as stored; some models look at its data type."""
        return anatomy.stored_weight(self.base)


@dataclass(frozen=True, kw_only=True)
class Adapter(Method):
    """Bottleneck adapters: presets `houlsby`, `pfeiffer`, `parallel-adapter`."""

    name = "adapter"
    paper = "https://arxiv.org/abs/1902.00751"
    mergeable = False
    learning_rate = 1e-4
    learning_rate_small = 1e-3

    width: int = 64
    """Width of the bottleneck; capacity and cost grow with it."""
    reduction: int | None = None
    """The width as a share of the hidden size: hidden size / reduction. Overrules `width`."""
    sublayers: tuple[str, ...] = (roles.ATTENTION, roles.FEED_FORWARD)
    """Sub-layers that get one: `attention`, `feed-forward`, or names of the layers that they end with."""
    reads: Literal["output", "input"] = "output"
    """Whether an adapter reads its sub-layer's output or, in parallel to it, its input (feed-forward only)."""
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    """The function in the middle."""
    scale: float = 1.0
    """What an adapter's change is multiplied by."""
    normalise: bool = False
    """Whether a LayerNorm stands before the bottleneck."""

    def __post_init__(self) -> None:
        if self.width < 1 or (self.reduction is not None and self.reduction < 1):
            raise SettingsError(f"method.width and method.reduction must be at least 1: {self.width}, {self.reduction}.")
        if self.reads == "input" and self.sublayers != (roles.FEED_FORWARD,):
            found = " ".join(self.sublayers)
            raise SettingsError(f"An adapter that reads the input stands beside {roles.FEED_FORWARD!r} only, found {found!r}.")

    def attach(self, model: nn.Module) -> None:
        ends = roles.layers(model, self.sublayers)
        beginnings = {end: start for start, end in roles.blocks(model)} if self.reads == "input" else {}
        sizes = {path: anatomy.linear_sizes(model.get_submodule(path)) for path in (*ends, *beginnings.values())}
        if wrong := [start for end, start in beginnings.items() if sizes[start][0] != sizes[end][1]]:
            raise NoSuchTarget(f"{wrong[0]!r} is no way into a feed-forward block: its input has {sizes[wrong[0]][0]} numbers.")
        surgery.freeze(model)
        for end in ends:
            passage = Passage() if end in beginnings else None
            if passage is not None:
                start = beginnings[end]
                surgery.replace(model, start, ReadingLinear(model.get_submodule(start), passage))
            surgery.replace(model, end, AdaptedLinear(model.get_submodule(end), self, passage))
        surgery.thaw(model, anatomy.new_head_parameters(model))
