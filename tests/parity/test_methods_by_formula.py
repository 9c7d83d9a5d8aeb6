"""Methods that no reference library has here equal their equations, written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import tiny_models
from tunesmith import settings
from tunesmith.methods.adapter import Adapter
from tunesmith.methods.bitfit import BitFit
from tunesmith.methods.ia3 import IA3
from tunesmith.methods.pissa import PiSSA, PiSSALinear
from tunesmith.methods.vera import VeRA, VeRALinear

DTYPE = torch.float64


class TwoLayers(nn.Module):
    """A feed-forward block with the names of a common architecture."""

    def __init__(self, linear: type[nn.Module]) -> None:
        super().__init__()
        sizes = ((6, 9), (9, 6))
        fc1, fc2 = (nn.Linear(*size) if linear is nn.Linear else Conv1D(size[1], size[0]) for size in sizes)
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


def _model(linear: type[nn.Module] = nn.Linear) -> TwoLayers:
    torch.manual_seed(0)
    return TwoLayers(linear)


def _shaken(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.to(DTYPE)


def _x() -> Tensor:
    return torch.randn(4, 6, dtype=DTYPE, generator=torch.Generator().manual_seed(1))


def _bottleneck(adapter: nn.Module, x: Tensor, function, scale: float) -> Tensor:
    return scale * (function(x @ adapter.down.t() + adapter.down_bias) @ adapter.up.t() + adapter.up_bias)


@pytest.mark.parametrize("linear", [nn.Linear, Conv1D])
@pytest.mark.parametrize("function", ["gelu", "relu", "silu"])
def test_an_adapter_behind_a_sublayer(linear, function):
    base, model = _model(linear).to(DTYPE), _model(linear)
    Adapter(width=3, sublayers=("fc2",), activation=function, scale=2.0).attach(model)
    _shaken(model)
    h = base(_x())
    expected = h + _bottleneck(model.fc2.bottleneck, h, getattr(nn.functional, function), 2.0)
    torch.testing.assert_close(model(_x()), expected, rtol=1e-12, atol=1e-12)


def test_an_adapter_beside_a_sublayer():
    base, model = _model().to(DTYPE), _model()
    Adapter(reduction=2, sublayers=("feed-forward",), reads="input", activation="relu", scale=4.0).attach(model)
    _shaken(model)
    assert model.fc2.bottleneck.down.shape == (3, 6)
    expected = base(_x()) + _bottleneck(model.fc2.bottleneck, _x(), torch.relu, 4.0)
    torch.testing.assert_close(model(_x()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("preset", "per_layer"),
    [
        ("houlsby", lambda h, _: 2 * (2 * 64 * h + h + 64)),
        ("pfeiffer", lambda h, _: 2 * (h // 16) * h + h + h // 16),
        ("parallel-adapter", lambda h, _: 2 * (h // 2) * h + h + h // 2),
        ("ia3", lambda h, f: 2 * h + f),
        ("bitfit", lambda h, f: 4 * h + f + h + 4 * h // 2),
    ],
)
def test_counts_are_those_of_the_formulas(preset, per_layer):
    """Of BERT, whose keys are as wide as its hidden states; BitFit: six linear layers and two norms."""
    model = tiny_models.build("bert", "classification")
    kind = {"ia3": IA3, "bitfit": BitFit}.get(preset, Adapter)
    tree = settings.load_preset(preset)["method"] if kind is Adapter else {}
    settings.from_mapping(kind, {k: v for k, v in tree.items() if k != "name"}, "test").attach(model)
    learnt = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "encoder.layer" in n)
    config = model.config
    assert learnt == config.num_hidden_layers * per_layer(config.hidden_size, config.intermediate_size)


@pytest.mark.parametrize("linear", [nn.Linear, Conv1D])
def test_vera(linear):
    base, model = _model(linear), _model(linear)
    VeRA(rank=5, targets=("fc1",)).attach(model)
    _shaken(model)
    layer = model.fc1
    assert isinstance(layer, VeRALinear)
    a, b = layer.shared_a.double(), layer.shared_b.double()
    change = torch.diag(layer.b) @ b @ torch.diag(layer.d) @ a
    weight = (base.fc1.weight if linear is nn.Linear else base.fc1.weight.t()).double()
    expected = _x() @ (weight + change).t() + base.fc1.bias.double()
    torch.testing.assert_close(layer(_x()), expected, rtol=1e-12, atol=1e-12)


def test_vera_draws_the_same_for_every_layer_and_again():
    models = [_model(), _model()]
    for model in models:
        VeRA(rank=5).attach(model)
    assert torch.equal(models[0].fc1.shared_a, models[0].fc2.shared_a[:, :6])
    assert torch.equal(models[0].fc1.shared_b[:6], models[0].fc2.shared_b)
    assert torch.equal(models[0].fc1.shared_a, models[1].fc1.shared_a)
    assert models[0].fc1.shared_a.untyped_storage().data_ptr() == models[0].fc2.shared_a.untyped_storage().data_ptr()
    assert models[0].fc2.shared_a.var().item() == pytest.approx(2 / 9, rel=0.4)


def test_pissa_begins_with_the_strongest_directions():
    model = _model()
    PiSSA(rank=2, targets=("fc1",)).attach(model)
    layer = model.fc1
    assert isinstance(layer, PiSSALinear)
    weight = layer.base.weight
    best = (torch.linalg.matrix_norm(weight).square() - torch.linalg.svdvals(weight)[:2].square().sum()).sqrt()
    assert torch.linalg.matrix_norm(weight - layer.b @ layer.a).item() == pytest.approx(best.item(), rel=1e-5)


def test_pissa():
    base, model = _model().to(DTYPE), _model()
    PiSSA(rank=2, targets=("fc1",)).attach(model)
    _shaken(model)
    layer = model.fc1
    rest = base.fc1.weight - layer.first_b @ layer.first_a
    expected = _x() @ (rest + layer.b @ layer.a).t() + base.fc1.bias
    torch.testing.assert_close(layer(_x()), expected, rtol=1e-12, atol=1e-12)


def test_bitfit_of_a_model_without_biases_trains_the_norms():
    model = tiny_models.build("llama", "causal")
    BitFit().attach(model)
    learnt = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learnt == {n for n, _ in model.named_parameters() if "norm" in n}
