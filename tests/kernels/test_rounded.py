"""Products of whole numbers against the same in float64, by torch's operations and by the compiled code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tunesmith.kernels import by_device, eight_bit, rounded
from tunesmith.kernels.cpu import compiled
from tunesmith.kernels.eight_bit import EightBit
from tunesmith.kernels.frozen_linear import Input, dense
from tunesmith.kernels.lora_linear import Change, Changed, lora_linear
from tunesmith.kernels.rounded import GROUP, Rounded

FORMS = ["torch", "compiled"]
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-7}
"""Of the largest number of a result. In bfloat16 torch's operations round both sides of a product to it, too."""


@contextlib.contextmanager
def _form(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute by torch alone, or by the compiled code alone, on one thread as in a process that trains."""
    if name == "torch":
        with by_device.torch_alone():
            yield
        return
    if not compiled.is_there():
        pytest.skip(f"needs compiled code: {compiled.why_not()}")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for function in ("rows", "add_product", "add_transposed_product"):
        monkeypatch.delitem(by_device.FUNCTIONS, f"rounded.{function}")
    yield


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with _form(request.param, monkeypatch):
        yield request.param


def _random(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def _input(rows: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Some columns are a hundred times as large as the others, as in transformers."""
    return (_random(rows, width) * torch.tensor([100.0, *[1.0] * (width // 2 - 1)]).repeat(2)).to(dtype)


def _exact(x: Rounded, width: int) -> Tensor:
    return x.values(torch.float64, width)


def _close(found: Tensor, expected: Tensor) -> None:
    assert (found.double() - expected).abs().max() <= ROUNDING[found.dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", ROUNDING)
def test_every_number_is_off_by_half_a_step_of_its_group_at_most(form: str, dtype: torch.dtype):
    x = _input(5, 192, dtype)
    x[1, :GROUP] = 0
    found = _exact(rounded.rows(x, None), 192)
    steps = x.double().view(5, -1, GROUP).abs().amax(-1, keepdim=True) / 127
    assert ((found - x).view(5, -1, GROUP).abs() <= steps * 0.5001).all()
    assert (found != x).any()


def test_columns_are_multiplied_first(form: str):
    x, factors = _input(9, 128), _random(128, seed=1)
    torch.testing.assert_close(rounded.rows(x, factors), rounded.rows(x * factors, None))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_so_and_spoils_its_own_row_alone(form: str, bad: float):
    x, w = _input(9, 128), eight_bit.quantize(_random(64, 128, seed=2))
    x[3, 70] = bad
    y = torch.zeros(9, 64)
    rounded.add_product(y, rounded.rows(x, None), w.codes, w.scales)
    assert y.isfinite().all(1).tolist() == [row != 3 for row in range(9)]
    assert not y[3].isfinite().any()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 21])
@pytest.mark.parametrize(("d_out", "d_in"), [(64, 64), (64, 192), (192, 128)])
def test_products(form: str, dtype: torch.dtype, rows: int, d_out: int, d_in: int):
    w = eight_bit.quantize(_random(d_out, d_in, seed=3))
    read, slope = rounded.rows(_input(rows, d_in, dtype), None), rounded.rows(_input(rows, d_out, dtype), w.scales)
    y, dx = torch.ones(rows, 2 * d_out, dtype=dtype)[:, :d_out], torch.ones(rows, d_in, dtype=dtype)
    rounded.add_product(y, read, w.codes, w.scales)
    rounded.add_transposed_product(dx, slope, w.codes)
    _close(y, 1 + _exact(read, d_in) @ (w.codes.double() * w.scales.double()[:, None]).t())
    _close(dx, 1 + _exact(slope, d_out) @ w.codes.double())


def test_the_largest_codes_everywhere(form: str):
    x, codes = torch.full((9, 256), -1.0), torch.full((64, 256), -127, dtype=torch.int8)
    y = torch.zeros(9, 64)
    rounded.add_product(y, rounded.rows(x, None), codes, torch.ones(64))
    torch.testing.assert_close(y, torch.full((9, 64), 127.0 * 256))


@pytest.mark.skipif(not compiled.is_there(), reason=f"needs compiled code: {compiled.why_not()}")
@pytest.mark.parametrize("dtype", ROUNDING)
def test_both_forms_round_alike(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    x, factors = _input(21, 192, dtype), _random(192, seed=4).abs()
    found = []
    for name in FORMS:
        with _form(name, monkeypatch):
            found.append(rounded.rows(x, factors))
    assert torch.equal(found[0].codes, found[1].codes)
    assert torch.equal(found[0].scales, found[1].scales)


@pytest.mark.parametrize(("d_out", "d_in"), [(64, 40), (40, 64), (30, 70)])
def test_widths_that_the_code_does_not_know(d_out: int, d_in: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    w, x, dy = eight_bit.quantize(_random(d_out, d_in)), _input(9, d_in), _input(9, d_out)
    y, dx = torch.zeros(9, d_out), torch.zeros(9, d_in)
    with rounded.inputs():
        w.add_product(y, Input(x))
        w.add_input_gradient(dx, dy)
    assert (y - x @ dense(w).t()).norm() < 0.02 * y.norm()
    assert (dx - dy @ dense(w)).norm() < 0.02 * dx.norm()


def test_scales_in_another_format(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    w, x, dy = eight_bit.quantize(_random(64, 128)), _input(9, 128), _input(9, 64)
    y, dx = torch.zeros(9, 64), torch.zeros(9, 128)
    rounded.add_product(y, rounded.rows(x, None), w.codes, w.scales.bfloat16())
    rounded.add_transposed_product(dx, rounded.rows(dy, w.scales.bfloat16()), w.codes)
    assert (y - x @ dense(w).t()).norm() < 0.02 * y.norm()
    assert (dx - dy @ dense(w)).norm() < 0.02 * dx.norm()


def test_inputs_are_rounded_inside_the_scope_only(form: str):
    w, x = eight_bit.quantize(_random(64, 128)), _input(9, 128)
    inside, outside = torch.zeros(9, 64), torch.zeros(9, 64)
    with rounded.inputs():
        w.add_product(inside, Input(x))
        with rounded.inputs(False):
            w.add_product(outside, Input(x))
    torch.testing.assert_close(outside, x @ dense(w).t(), rtol=1e-4, atol=1e-3)
    difference = (inside - outside).norm() / outside.norm()
    assert 1e-3 < difference < 2e-2
    assert not rounded.are_inputs()


def test_an_input_of_several_layers_is_rounded_once(form: str, monkeypatch: pytest.MonkeyPatch):
    seen, real = [], rounded.rows
    monkeypatch.setattr(rounded, "rows", lambda x, factors: seen.append(tuple(x.shape)) or real(x, factors))
    x = _input(9, 128).requires_grad_()
    layers = [Changed(_weight(d_out), None, [Change(_random(4, 128), _random(d_out, 4), 1.0)]) for d_out in (64, 128)]
    with rounded.inputs():
        outputs = lora_linear(x, layers)
        assert seen == [(9, 128)]
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])
    assert seen[1:] == [(9, 64), (9, 128)]
    assert x.grad is not None


def _weight(d_out: int) -> EightBit:
    return eight_bit.quantize(_random(d_out, 128, seed=d_out))


def test_they_never_pay_where_threads_do_not_share_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(compiled, "shares_threads", lambda: False)
    assert not rounded.pay("cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with by_device.torch_alone():
        assert not rounded.pay("cpu")
    assert not rounded.pay("cuda")
