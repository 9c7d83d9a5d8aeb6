"""IA3: learn one multiplier per channel of the keys, the values and the inner activations of the feed-forward blocks.

k' = l_k * (W_k x)      l_k: (outputs of W_k,)
v' = l_v * (W_v x)      l_v: (outputs of W_v,)
y = W (l_ff * u)      l_ff: (inputs of W,), W: the layer that ends a feed-forward block

All are 1 at the start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith import settings
from tunesmith.errors import ModelError, NoSuchTarget, NotMergeable
from tunesmith.interchange import PREFIX, PeftFormat, PeftParts, module_tensors, target_modules
from tunesmith.method import Method
from tunesmith.model import anatomy, roles, surgery, weights
from tunesmith.model.roles import Range


class ScaledLinear(nn.Module):
    """A frozen linear layer whose inputs, or some of whose outputs, are multiplied by a learnt vector."""

    def __init__(self, base: nn.Module, ranges: tuple[Range, ...] | None) -> None:
        """Scale the outputs in `ranges`, or with None all inputs."""
        super().__init__()
        self.base, self.ranges = base, ranges
        d_in, d_out = anatomy.linear_sizes(base)
        self.num_channels = d_in if ranges is None else d_out
        size = d_in if ranges is None else sum(end - start for start, end in ranges)
        self.scale = nn.Parameter(torch.ones(size, device=anatomy.device_of(base), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        scale = self.all_channels(self.scale).to(x.dtype)
        return self.base(x * scale) if self.ranges is None else self.base(x) * scale

    @property
    def weight(self) -> Tensor:
        """The frozen weight, as stored; some models look at its data type."""
        return anatomy.stored_weight(self.base)

    def all_channels(self, scale: Tensor) -> Tensor:
        """The multiplier of every channel, `(channels,)`, from those of the learnt ones: 1 where none is learnt."""
        if self.ranges is None or len(scale) == self.num_channels:
            return scale
        places = torch.cat([torch.arange(*bounds, device=scale.device) for bounds in self.ranges])
        return torch.ones(self.num_channels, device=scale.device, dtype=scale.dtype).index_copy(0, places, scale)


@dataclass(frozen=True, kw_only=True)
class IA3(Method, PeftFormat):
    """Rescaling of keys, values and inner feed-forward activations."""

    name = "ia3"
    paper = "https://arxiv.org/abs/2205.05638"
    learning_rate = 5e-3
    learning_rate_small = 2e-2
    peft_type = "IA3"
    peft_keys = frozenset[str]()
    peft_ignored = frozenset({"target_modules", "feedforward_modules", "exclude_modules", "fan_in_fan_out", "init_ia3_weights"})

    scale_outputs_of: tuple[str, ...] = (roles.KEYS, roles.VALUES)
    """Layers whose outputs are multiplied: `keys`, `values`, `queries`, or names of layers (patterns allowed)."""
    scale_inputs_of: tuple[str, ...] = (roles.FEED_FORWARD,)
    """Layers whose inputs are multiplied: `feed-forward`, or names of layers (patterns allowed)."""

    def attach(self, model: nn.Module) -> None:
        outputs = roles.outputs(model, self.scale_outputs_of)
        inputs = roles.layers(model, self.scale_inputs_of)
        surgery.freeze(model)
        for part in outputs:
            surgery.replace(model, part.path, ScaledLinear(model.get_submodule(part.path), part.ranges))
        for path in inputs:
            surgery.replace(model, path, ScaledLinear(model.get_submodule(path), None))
        surgery.thaw(model, anatomy.new_head_parameters(model))

    @torch.no_grad()
    def merge(self, model: nn.Module) -> None:
        for path, layer in _layers(model).items():
            if anatomy.is_tied(model, layer.base):
                raise NotMergeable(f"{path!r} shares its weight with another layer, which {self.name!r} would change too.")
        for layer in _layers(model).values():
            scale, weight, bias = layer.all_channels(layer.scale), weights.writable(layer.base), layer.base.bias
            weight.copy_(weight.float() * (scale if layer.ranges is None else scale[:, None]))
            if isinstance(bias, Tensor) and layer.ranges is not None:
                bias.mul_(scale)
        surgery.detach(model)

    def to_peft(self, model: nn.Module, trained: Mapping[str, Tensor]) -> PeftParts:
        layers = _layers(model)
        inputs = [path for path, layer in layers.items() if layer.ranges is None]
        names = target_modules(model, inputs)
        config = {
            "target_modules": sorted({*names, *target_modules(model, [path for path in layers if path not in inputs])}),
            "feedforward_modules": names,
            "fan_in_fan_out": any(anatomy.stores_inputs_first(layer.base) for layer in layers.values()),
        }
        scales = {path: layer.all_channels(trained[f"{path}.scale"]).detach() for path, layer in layers.items()}
        tensors = {f"{PREFIX}{path}.ia3_l": scale.reshape(_SHAPES[path in inputs]) for path, scale in scales.items()}
        own = {f"{path}.scale" for path in layers}
        return PeftParts(config, tensors, {name: tensor for name, tensor in trained.items() if name not in own})

    @classmethod
    def from_peft(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], model: nn.Module
    ) -> tuple[IA3, dict[str, Tensor]]:
        del config  # which side of a layer is scaled shows in the shapes
        own = module_tensors(tensors, {"ia3_l": "scale"})
        if odd := [name for name, tensor in own.items() if tensor.ndim != 2 or 1 not in tensor.shape]:
            raise ModelError(f"The adapter's {odd[0]!r} has the shape {tuple(own[odd[0]].shape)}, which is no row or column.")
        inputs = [name for name, tensor in own.items() if tensor.shape[0] == 1]
        flat = {name: tensor.flatten() for name, tensor in own.items()}
        outputs = [name for name in own if name not in inputs]
        chosen = {"scale_inputs_of": [_path(name) for name in inputs], "scale_outputs_of": [_path(name) for name in outputs]}
        usual, shares = cls(), {}
        with contextlib.suppress(NoSuchTarget):
            if set(roles.layers(model, usual.scale_inputs_of)) == {_path(name) for name in inputs}:
                chosen["scale_inputs_of"] = list(usual.scale_inputs_of)
            shares = {f"{part.path}.scale": part for part in roles.outputs(model, usual.scale_outputs_of)}
        if shares.keys() == set(outputs) and all(_ones_elsewhere(flat[name], shares[name].ranges) for name in outputs):
            chosen["scale_outputs_of"] = list(usual.scale_outputs_of)
            flat |= {name: torch.cat([flat[name][slice(*r)] for r in shares[name].ranges]) for name in outputs}
        return settings.from_mapping(cls, chosen, "adapter_config.json"), flat


_SHAPES = {True: (1, -1), False: (-1, 1)}
"""How PEFT stores a multiplier: of inputs as a row, of outputs as a column."""


def _layers(model: nn.Module) -> dict[str, ScaledLinear]:
    return {path: module for path, module in model.named_modules() if isinstance(module, ScaledLinear)}


def _path(name: str) -> str:
    return name.rpartition(".")[0]


def _ones_elsewhere(scale: Tensor, ranges: tuple[Range, ...]) -> bool:
    """Whether a saved vector leaves every output alone that is not in `ranges`."""
    rest = torch.ones(len(scale), dtype=torch.bool)
    for start, end in ranges:
        rest[start:end] = False
    return bool((scale[rest] == 1).all())
