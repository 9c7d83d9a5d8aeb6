"""One flat buffer does what torch's AdamW does tensor by tensor."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tunesmith.training import optimizer as optimizer_module
from tunesmith.training.optimizer import BETAS, EPSILON, FlatAdamW, length

DECAY, RATE = 0.1, 0.01


def _model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3, bias=False), nn.Linear(3, 2))


def _loss(model: nn.Module, step: int) -> Tensor:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
    return (model(x.to(next(model.parameters()).dtype)).float() ** 2).mean()


def _reference(model: nn.Module) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPSILON)


def _train(model: nn.Module, optimizer: FlatAdamW, steps: range) -> None:
    for step in steps:
        _loss(model, step).backward()
        optimizer.step(RATE)


def test_equals_adamw_over_separate_tensors():
    flat_model, model = _model(), _model()
    optimizer, reference = FlatAdamW(flat_model.named_parameters(), DECAY), _reference(model)
    for step in range(8):
        for _ in range(2):  # gradients add up
            _loss(flat_model, step).backward()
            _loss(model, step).backward()
        optimizer.step(RATE)
        reference.step()
        reference.zero_grad()
    for (name, found), expected in zip(flat_model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7, msg=name)


def test_taking_over_changes_no_weight():
    taken, model = _model(), _model()
    FlatAdamW(taken.named_parameters(), DECAY)
    assert all(torch.equal(p, q) for p, q in zip(taken.parameters(), model.parameters(), strict=True))


def test_decay_acts_on_matrices_only():
    model, before = _model(), _model()
    optimizer = FlatAdamW(model.named_parameters(), DECAY)
    optimizer.step(RATE)  # no gradient at all: what moves is decay
    for (name, p), old in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p, old * (1 - RATE * DECAY) if p.ndim > 1 else old, msg=name)


def test_frozen_parameters_are_left_out():
    model = _model()
    model[0].requires_grad_(False)
    frozen = model[0].weight.clone()
    optimizer = FlatAdamW(model.named_parameters(), DECAY)
    assert list(optimizer.trained()) == ["2.weight", "3.weight", "1.weight", "1.bias", "3.bias"]
    _train(model, optimizer, range(3))
    assert torch.equal(model[0].weight, frozen)


def test_the_norm_is_that_of_all_gradients():
    model = _model()
    optimizer = FlatAdamW(model.named_parameters(), DECAY)
    assert optimizer.gradient_norm() == 0.0
    _loss(model, 0).backward()
    gradients = torch.autograd.grad(_loss(model, 0), list(model.parameters()))
    expected = torch.cat([g.flatten() for g in gradients]).norm().item()
    assert optimizer.gradient_norm() == pytest.approx(expected, rel=1e-6)
    optimizer.forget()
    assert optimizer.gradient_norm() == 0.0


def test_a_factor_scales_the_gradient():
    """AdamW hardly sees the size of a gradient, but its moments do."""
    models = _model(), _model()
    optimizers = [FlatAdamW(m.named_parameters(), 0.0) for m in models]
    _loss(models[0], 0).backward()
    (_loss(models[1], 0) * 0.25).backward()
    optimizers[0].step(RATE, 0.25)
    optimizers[1].step(RATE)
    for name, one in optimizers[0].state().items():
        torch.testing.assert_close(one, optimizers[1].state()[name], msg=name)


def test_each_step_has_its_own_rate():
    model = _model()
    optimizer = FlatAdamW(model.named_parameters(), 0.0)
    moved = []
    for rate in (0.0, 1e-3):
        before = model[0].weight.clone()
        _loss(model, 0).backward()
        optimizer.step(rate)
        moved.append((model[0].weight - before).abs().max().item())
    assert moved[0] == 0.0
    assert 0 < moved[1] <= 1.1e-3


def _stored(model: nn.Module) -> dict[str, torch.dtype]:
    return dict.fromkeys(("0.weight", "2.weight", "0.bias"), torch.bfloat16)


def test_low_precision_weights_have_float32_masters():
    model = _model()
    optimizer = FlatAdamW(model.named_parameters(), 0.0, _stored(model))
    start = optimizer.trained()["0.weight"].clone()
    assert torch.equal(start, _model()[0].weight), "the master is the weight as it was, not rounded"
    assert {n for n, p in model.named_parameters() if p.dtype == torch.bfloat16} == set(_stored(model))
    for _ in range(50):
        sum(p.sum() for p in model.parameters() if p.dtype == torch.bfloat16).backward()
        optimizer.step(1e-6)
        assert torch.equal(model[0].weight, optimizer.trained()["0.weight"].bfloat16())
    # each step is far below what bfloat16 can tell apart, their sum is not lost
    torch.testing.assert_close(start - optimizer.trained()["0.weight"], torch.full_like(start, 5e-5), rtol=0.02, atol=0)


def test_low_precision_gradients_add_up_in_float32():
    model = _model()
    optimizer = FlatAdamW(model.named_parameters(), 0.0, {"0.weight": torch.bfloat16})
    for value in (1.0, 2**-9, 2**-9):
        (model[0].weight * value).sum().backward()
        assert model[0].weight.grad is None
    assert optimizer.gradient_norm() == pytest.approx((1 + 2**-8) * 35**0.5, rel=1e-6)  # in bfloat16 it would stay 1


@pytest.mark.parametrize("low_precision", [False, True])
def test_a_state_that_is_brought_back_goes_on_bitwise_the_same(low_precision: bool):
    def build(seed: int) -> tuple[nn.Module, FlatAdamW]:
        model = _model(seed)
        for parameter in model.parameters():
            if low_precision:
                parameter.data = parameter.data.bfloat16()
        stored = {n: torch.bfloat16 for n, _ in model.named_parameters()} if low_precision else None
        return model, FlatAdamW(model.named_parameters(), DECAY, stored)

    model, optimizer = build(0)
    _train(model, optimizer, range(3))
    saved = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    other_model, other = build(1)
    other.load_state(saved)
    _train(model, optimizer, range(3, 6))
    _train(other_model, other, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other_model.parameters(), strict=True))
    assert all(torch.equal(t, other.state()[n]) for n, t in optimizer.state().items())
    assert set(saved) == set(other.state())


def test_a_state_is_taken_over_by_value():
    model = _model()
    optimizer = FlatAdamW(model.named_parameters(), DECAY)
    _train(model, optimizer, range(2))
    saved = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    optimizer.load_state(saved)
    _train(model, optimizer, range(2, 4))
    assert all(torch.equal(kept[name], saved[name]) for name in kept)


def test_a_state_from_before_the_first_step_forgets_the_moments():
    model = _model()
    optimizer = FlatAdamW(model.named_parameters(), DECAY)
    first = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    _train(model, optimizer, range(3))
    once = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    optimizer.load_state(first)
    assert set(optimizer.state()) == set(first)
    _train(model, optimizer, range(3))
    assert all(torch.equal(tensor, optimizer.state()[name]) for name, tensor in once.items())


def test_trained_names_what_learns_in_float32():
    model = _model()
    optimizer = FlatAdamW(model.named_parameters(), DECAY, _stored(model))
    trained = optimizer.trained()
    assert set(trained) == {name for name, _ in model.named_parameters()}
    for name, tensor in trained.items():
        assert (tensor.dtype, tensor.shape) == (torch.float32, model.get_parameter(name).shape), name
        assert torch.equal(tensor.to(model.get_parameter(name).dtype), model.get_parameter(name)), name


def test_tied_weights_are_taken_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    optimizer = FlatAdamW(model.named_parameters(), 0.0)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step(RATE)
    assert list(optimizer.trained()) == ["0.weight"]
    assert model[1].weight is model[0].weight


def test_a_parameter_learns_at_its_own_rate():
    """As in torch's AdamW with a group for every rate; a checkpoint holds all groups."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4)
    twin = copy.deepcopy(model)
    optimizer = FlatAdamW(model.named_parameters(), 0.0, rate_of=lambda name: 16.0 if name == "bias" else 1.0)
    reference = torch.optim.AdamW(
        [{"params": [twin.weight], "lr": 1e-3}, {"params": [twin.bias], "lr": 16e-3}], weight_decay=0.0
    )
    for _ in range(3):
        for one in (model, twin):
            one(torch.ones(2, 3)).square().sum().backward()
        optimizer.step(1e-3)
        reference.step()
        reference.zero_grad()
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(model.bias, twin.bias, rtol=1e-6, atol=1e-7)
    assert {name.split(".")[0] for name in optimizer.state()} == {"0", "1"}


def test_the_length_of_many_gradients_is_exact():
    numbers = torch.randn(4_000_001, generator=torch.Generator().manual_seed(0))
    exact = numbers.double().square().sum().sqrt().item()
    assert length(numbers).item() == pytest.approx(exact, rel=1e-6)
    assert length(numbers[:3]).item() == pytest.approx(numbers[:3].double().square().sum().sqrt().item(), rel=1e-6)
    assert torch.linalg.vector_norm(numbers).item() != pytest.approx(exact, rel=1e-5), "else there is nothing to guard against"


def test_low_precision_gradients_are_gone_when_the_backward_pass_is(monkeypatch: pytest.MonkeyPatch):
    """Each is added to its sum, in pieces, as soon as it is there: all together are as large as the weights."""
    monkeypatch.setattr(optimizer_module, "_PIECE", 7)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3))
    twin = copy.deepcopy(model).bfloat16()
    optimizer = FlatAdamW(model.named_parameters(), 0.0, {n: torch.bfloat16 for n, _ in model.named_parameters()})
    inputs = [torch.randn(4, 5).bfloat16() for _ in range(2)]
    sums = [torch.zeros(p.shape) for p in twin.parameters()]
    for x in inputs:
        model(x).sum().backward()
        assert all(p.grad is None for p in model.parameters())
        for total, gradient in zip(sums, torch.autograd.grad(twin(x).sum(), list(twin.parameters())), strict=True):
            total.add_(gradient)
    found = {name: t for group in optimizer._groups for name, t in zip(group.names, group.views(group.gradients), strict=True)}
    assert all(torch.equal(found[name], total) for (name, _), total in zip(twin.named_parameters(), sums, strict=True))
