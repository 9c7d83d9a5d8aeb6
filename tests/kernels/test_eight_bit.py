from __future__ import annotations

import torch

from tunesmith.kernels import eight_bit
from tunesmith.kernels.frozen_linear import dense


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
