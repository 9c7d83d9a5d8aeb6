from __future__ import annotations

import pytest
import torch

import tiny_models
from tunesmith.kernels.four_bit import FourBit
from tunesmith.methods.dora import DoRA, DoRALinear
from tunesmith.model import quantize
from tunesmith.model.quantized_linear import QuantizedLinear


def test_a_weight_in_few_bits_is_dequantised_for_two_products_and_never_whole(monkeypatch: pytest.MonkeyPatch):
    """One for the output, one for the lengths: what does not move is not found anew in every pass."""
    model = tiny_models.build("llama")
    quantize.quantize(model, 4)
    DoRA(rank=2).attach(model)
    alone = (m for m in model.modules() if isinstance(m, DoRALinear) and len(m.company.layers) == 1)
    layer = next(alone)
    dequantised, blocks = [], FourBit.row_blocks
    monkeypatch.setattr(FourBit, "row_blocks", lambda self, dtype: dequantised.append(self) or blocks(self, dtype))
    monkeypatch.delattr(QuantizedLinear, "weight")
    layer(torch.randn(3, 32))
    assert len(dequantised) == 2
