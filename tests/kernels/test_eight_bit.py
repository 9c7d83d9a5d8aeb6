from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tunesmith.kernels import by_device, eight_bit
from tunesmith.kernels.cpu import compiled
from tunesmith.kernels.frozen_linear import dense, frozen_linear

ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-7}
"""Of the largest number of a result. In bfloat16 torch's operations round the weight to it, too."""


def _random(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def test_every_number_is_off_by_half_a_step_at_most():
    w = torch.randn(70, 130, generator=torch.Generator().manual_seed(0))
    w[4] = 0
    values = dense(eight_bit.quantize(w))
    steps = w.abs().amax(1, keepdim=True) / 127
    assert ((values - w).abs() <= steps * 0.5001).all()
    assert (values != w).any()


def test_bits_of_a_number():
    stored = eight_bit.quantize(torch.randn(64, 576))
    assert (stored.codes.nbytes + stored.scales.nbytes) * 8 / (64 * 576) == 8 + 32 / 576


@pytest.mark.parametrize("form", ["torch", "compiled"])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize(("d_out", "d_in"), [(4, 32), (64, 96), (12, 576)])
def test_products_of_few_rows(monkeypatch, form: str, dtype: torch.dtype, rows: int, d_out: int, d_in: int):
    """Where the compiled code is asked for, torch's operations are out of reach, however many threads they have."""
    x, w = _random(2 * rows, d_in)[::2].to(dtype), eight_bit.quantize(_random(d_out, d_in, seed=1))
    y = torch.ones(rows, 2 * d_out, dtype=dtype)
    if form == "torch":
        with by_device.torch_alone():
            eight_bit.add_product(y[:, :d_out], x, w.codes, w.scales)
    else:
        if not compiled.is_there():
            pytest.skip(f"needs compiled code: {compiled.why_not()}")
        monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
        monkeypatch.delitem(by_device.FUNCTIONS, "eight_bit.add_product")
        eight_bit.add_product(y[:, :d_out], x, w.codes, w.scales)
    expected = 1 + x.double() @ dense(w, torch.float64).t()
    assert (y[:, :d_out] - expected).abs().max() <= ROUNDING[dtype] * expected.abs().max()
    assert (y[:, d_out:] == 1).all()


@pytest.mark.parametrize(("rows", "d_out", "d_in"), [(17, 64, 64), (3, 62, 64), (3, 64, 65)])
def test_other_products_are_torchs(rows: int, d_out: int, d_in: int):
    x, w = _random(rows, d_in), eight_bit.quantize(_random(d_out, d_in, seed=1))
    torch.testing.assert_close(frozen_linear(x, w, None), x @ dense(w).t(), rtol=1e-5, atol=1e-4)


def test_what_is_not_finite_spoils_its_own_row_alone():
    x, w = _random(6, 64), eight_bit.quantize(_random(8, 64, seed=1))
    x[4, 3] = torch.nan
    assert frozen_linear(x, w, None).isfinite().all(1).tolist() == [row != 4 for row in range(6)]
