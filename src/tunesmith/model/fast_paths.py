"""Puts our kernels in the place of a model's norms, activations, gated products and rotary embedding, where they agree.

Nothing is recognised by a model's name. A module qualifies by its parts, and is then *tried*: our form and its own run
on the same random input, and only if they agree to rounding is it replaced. What does not qualify stays as it is.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.kernels import remade
from tunesmith.kernels.gated import lora_swiglu, swiglu
from tunesmith.kernels.rms_norm import rms_norm
from tunesmith.kernels.rotary import rotate
from tunesmith.model import anatomy, low_rank, surgery
from tunesmith.model.activation import FastGELU, as_gelu

_ROTARY = "apply_rotary_pos_emb"


class FastRMSNorm(nn.Module):
    """A model's root-mean-square norm, by our kernel; the weight stays the model's own parameter."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        parts = anatomy.norm_parts(original)
        assert parts is not None, "only a norm has a fast form"
        self.weight, self.epsilon = parts

    def forward(self, x: Tensor) -> Tensor:
        """`(..., hidden)` to the same shape."""
        return rms_norm(x, self.weight, self.epsilon)


class FastGatedMLP(nn.Module):
    """A model's gated feed-forward layer, its product by our kernel; the projections stay the model's own modules."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        parts = anatomy.gated_parts(original)
        assert parts is not None, "only a gated layer has a fast form"
        self.gate_proj, self.up_proj, self.down_proj = parts

    def forward(self, x: Tensor) -> Tensor:
        """`(..., hidden)` to the same shape."""
        layers = (self.gate_proj, self.up_proj, self.down_proj)
        if low_rank.all_plain(layers):
            gate, up, down = (layer.changed for layer in layers)
            return lora_swiglu(x, gate, up, down, layers[0].parts)
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


_KINDS = ((FastRMSNorm, anatomy.norm_parts), (FastGatedMLP, anatomy.gated_parts), (FastGELU, as_gelu))
"""Our modules, and what says which of a model's they can stand for."""


def install(model: PreTrainedModel) -> dict[str, int]:
    """Replace what qualifies, before a method attaches; returns how many modules of each kind were replaced."""
    counts: dict[str, int] = {}
    verdicts: dict[object, bool] = {}
    device = anatomy.device_of(model)
    for path, module in list(anatomy.backbone(model).named_modules(prefix=_prefix(model))):
        for kind, qualifies in _KINDS:
            if qualifies(module) is None:
                continue
            fast = kind(module)
            key = (type(module), kind)
            if key not in verdicts:
                x = torch.randn(3, anatomy.input_width(module), generator=torch.Generator().manual_seed(0))
                verdicts[key] = _agree(module, fast, x.to(device, anatomy.dtype_of(module)))
            if verdicts[key]:
                surgery.replace(model, path, fast)
                counts[kind.__name__] = counts.get(kind.__name__, 0) + 1
    return counts


@contextlib.contextmanager
def used(model: PreTrainedModel) -> Iterator[None]:
    """Compute a forward and its backward pass: rotary by our kernel, and nothing kept that is cheap to make again."""
    with rotary(model), remade.sparing():
        yield


@contextlib.contextmanager
def rotary(model: PreTrainedModel) -> Iterator[None]:
    """Let the model's attention rotate by our kernel for a while, if its rotary embedding is the usual one."""
    places = _rotary_places(model)
    before = [getattr(place, _ROTARY) for place in places]
    for place in places:
        setattr(place, _ROTARY, _apply_rotary)
    try:
        yield
    finally:
        for place, function in zip(places, before, strict=True):
            setattr(place, _ROTARY, function)


def _apply_rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Transformers' function of that name, by our kernel."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    width = cos.shape[-1]

    def turned(t: Tensor) -> Tensor:
        part = rotate(t[..., :width], cos, sin).to(t.dtype)  # OLMo's angles are float32, whatever it computes in
        return part if width == t.shape[-1] else torch.cat([part, t[..., width:]], -1)

    return turned(q), turned(k)


def _rotary_places(model: PreTrainedModel) -> list[ModuleType]:
    """The Python modules of the model's code whose rotary function agrees with ours; looked up once for each model class."""
    cached = _places.get(type(model))
    if cached is None:
        names = {type(module).__module__ for module in model.modules()}
        found = [sys.modules[name] for name in sorted(names) if hasattr(sys.modules[name], _ROTARY)]
        cached = _places[type(model)] = [place for place in found if _rotary_agrees(getattr(place, _ROTARY))]
    return cached


_places: dict[type, list[ModuleType]] = {}


def _rotary_agrees(function: Callable[..., tuple[Tensor, Tensor]]) -> bool:
    if list(inspect.signature(function).parameters)[:4] != ["q", "k", "cos", "sin"]:
        return False
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 3, 5, 8, generator=generator), torch.randn(1, 2, 5, 8, generator=generator)
    agreements = []
    for width in (8, 4):  # the whole head turns, or a part of it: not every function takes a part
        cos, sin = torch.randn(1, 5, width, generator=generator), torch.randn(1, 5, width, generator=generator)
        with contextlib.suppress(TypeError, RuntimeError, ValueError):
            theirs = function(q, k, cos, sin)
            agreements.append(all(_close(a, b) for a, b in zip(theirs, _apply_rotary(q, k, cos, sin), strict=True)))
    return bool(agreements) and all(agreements)


@torch.no_grad()
def _agree(original: nn.Module, fast: nn.Module, x: Tensor) -> bool:
    """Whether both make the same of a random x, also in training: what has dropout of its own does not."""
    mode = original.training
    try:
        return _close(original.train()(x), fast.train()(x))
    finally:
        original.train(mode)


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-5 if a.dtype in (torch.float32, torch.float64) else 0.02
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6))


def _prefix(model: PreTrainedModel) -> str:
    body = anatomy.backbone(model)
    return next((name for name, module in model.named_modules() if module is body), "")
