"""Small networks with a skip connection, at the places of a layer where bottleneck adapters stand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith.model import anatomy, roles, surgery

ACTIVATIONS = {"gelu": nn.functional.gelu, "relu": nn.functional.relu, "silu": nn.functional.silu}
_NAME = "bottleneck"


@dataclass(frozen=True, kw_only=True)
class Form:
    """How bottlenecks are made; `reduction` overrules `width`."""

    width: int
    reduction: int | None
    activation: str
    scale: float
    normalise: bool

    def make(self, hidden: int, device: torch.device) -> Bottleneck:
        """A new one for states of this size."""
        return Bottleneck(hidden, self, device)


class Bottleneck(nn.Module):
    """s (U f(D x + b_D) + b_U)      D: (width, hidden) Kaiming-uniform, U: (hidden, width) and both biases zero."""

    def __init__(self, hidden: int, form: Form, device: torch.device) -> None:
        super().__init__()
        width = form.width if form.reduction is None else max(1, hidden // form.reduction)
        self.norm = nn.LayerNorm(hidden, device=device) if form.normalise else None
        self.down = nn.Parameter(torch.empty(width, hidden, device=device, dtype=torch.float32))
        self.down_bias = nn.Parameter(torch.zeros(width, device=device, dtype=torch.float32))
        self.up = nn.Parameter(torch.zeros(hidden, width, device=device, dtype=torch.float32))
        self.up_bias = nn.Parameter(torch.zeros(hidden, device=device, dtype=torch.float32))
        self.activation, self.scale = form.activation, form.scale
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., hidden)` to the same shape, in the data type of `x`."""
        inner = x if self.norm is None else self.norm(x.float()).to(x.dtype)
        inner = nn.functional.linear(inner, self.down.to(x.dtype), self.down_bias.to(x.dtype))
        inner = ACTIVATIONS[self.activation](inner)
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

    def __init__(self, base: nn.Module, form: Form, passage: Passage | None = None) -> None:
        super().__init__()
        self.base, self.passage = base, passage
        self.bottleneck = form.make(anatomy.linear_sizes(base)[1], anatomy.device_of(base))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., hidden)`."""
        h = self.base(x)
        return h + self.bottleneck(h if self.passage is None else self.passage.take())

    @property
    def weight(self) -> Tensor:
        """The frozen weight, as stored; some models look at its data type."""
        return anatomy.stored_weight(self.base)


class AdaptedNorm(nn.Module):
    """A frozen norm N that ends a layer: N(z + bottleneck(N(z)))."""

    def __init__(self, base: nn.Module, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.base, self.bottleneck = base, bottleneck

    def forward(self, z: Tensor) -> Tensor:
        """Map `(..., hidden)` to the same shape."""
        return self.base(z + self.bottleneck(self.base(z)))


def behind(model: nn.Module, end: str, form: Form) -> None:
    """Put a bottleneck behind the linear layer at `end`, before the model adds what came in."""
    surgery.replace(model, end, AdaptedLinear(model.get_submodule(end), form))


def beside(model: nn.Module, start: str, end: str, form: Form) -> None:
    """Put a bottleneck beside the sub-layer from the linear layer at `start` to that at `end`."""
    passage = Passage()
    surgery.replace(model, start, ReadingLinear(model.get_submodule(start), passage))
    surgery.replace(model, end, AdaptedLinear(model.get_submodule(end), form, passage))


def at_sum(model: nn.Module, end: str, form: Form) -> None:
    """Put a bottleneck where the model has added what came in to the output of the linear layer at `end`, the layer's last."""
    layer, norm = roles.sum_behind(model, end)
    last = model.get_submodule(end)
    bottleneck = form.make(anatomy.linear_sizes(last)[1], anatomy.device_of(last))
    if norm is not None:
        surgery.replace(model, norm, AdaptedNorm(model.get_submodule(norm), bottleneck))
        return
    surgery.add(model, f"{layer}.{_NAME}", bottleneck)
    surgery.hook(model, layer, after=_add)


def _add(layer: nn.Module, _args: tuple, _inputs: dict, output: Tensor | tuple) -> Tensor | tuple:
    states = output[0] if isinstance(output, tuple) else output
    changed = states + layer.get_submodule(_NAME)(states)
    return (changed, *output[1:]) if isinstance(output, tuple) else changed
