"""Bottleneck adapters: a small network with a skip connection behind, or beside, the sub-layers of every layer.

output: h' = h + B(h)                    h: the sub-layer's output before the model adds it to what came in
sum: y = N(z + B(N(z)))                  z: the sum of both, N: the norm that ends the layer, if one does
input: h' = h + B(x)                     x: the sub-layer's input
B(v) = s (U f(D v + b_D) + b_U)          D: (width, hidden), U: (hidden, width)

D is drawn Kaiming-uniform, U and both biases are 0, so that the start is the base model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from tunesmith.errors import NoSuchTarget, SettingsError
from tunesmith.method import Method
from tunesmith.model import anatomy, bottleneck, roles, surgery
from tunesmith.model.bottleneck import Form


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
    reads: Literal["output", "sum", "input"] = "output"
    """What an adapter reads: its sub-layer's output, the sum behind it, or beside it the input (both feed-forward only)."""
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    """The function in the middle."""
    scale: float = 1.0
    """What an adapter's change is multiplied by."""
    normalise: bool = False
    """Whether a LayerNorm stands before the bottleneck."""

    def __post_init__(self) -> None:
        if self.width < 1 or (self.reduction is not None and self.reduction < 1):
            raise SettingsError(f"method.width and method.reduction must be at least 1: {self.width}, {self.reduction}.")
        if self.reads != "output" and self.sublayers != (roles.FEED_FORWARD,):
            found = " ".join(self.sublayers)
            raise SettingsError(
                f"An adapter that reads the {self.reads} stands at {roles.FEED_FORWARD!r} only, found {found!r}."
            )

    def attach(self, model: nn.Module) -> None:
        form = Form(
            width=self.width,
            reduction=self.reduction,
            activation=self.activation,
            scale=self.scale,
            normalise=self.normalise,
        )
        ends = roles.layers(model, self.sublayers)
        starts = _starts(model) if self.reads == "input" else {}
        surgery.freeze(model)
        for end in ends:
            if self.reads == "input":
                bottleneck.beside(model, starts[end], end, form)
            elif self.reads == "sum":
                bottleneck.at_sum(model, end, form)
            else:
                bottleneck.behind(model, end, form)
        surgery.thaw(model, anatomy.new_head_parameters(model))


def _starts(model: nn.Module) -> dict[str, str]:
    """The first layer of each feed-forward block by its last one.

    Raises:
        NoSuchTarget: If one reads something else than the block's input.
    """
    blocks = roles.blocks(model)
    for start, end in blocks:
        num_inputs = anatomy.linear_sizes(model.get_submodule(start))[0]
        if num_inputs != anatomy.linear_sizes(model.get_submodule(end))[1]:
            raise NoSuchTarget(f"{start!r} is no way into a feed-forward block: its input has {num_inputs} numbers.")
    return {end: start for start, end in blocks}
