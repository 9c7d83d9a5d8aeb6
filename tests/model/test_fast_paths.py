"""Our kernels stand where they agree with the model, also in the number format and the mode that are chosen later."""

from __future__ import annotations

import pytest
import torch

import packed_cases
import tiny_models
from tunesmith.methods.lora import LoRA
from tunesmith.model import forward
from tunesmith.training import precision


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_in_bfloat16(name: str):
    """What was tried in float32 computes in bfloat16, too: some models rotate by float32 angles whatever they compute in."""
    model = tiny_models.build(name)
    batch = packed_cases.batch(model, "causal")
    chosen, _ = forward.choose(model, classification=False)
    exact = chosen.target_losses(batch)
    precision.store_frozen(model, torch.bfloat16)
    LoRA(rank=2).attach(model)
    answer = packed_cases.together(chosen, batch)
    assert answer.loss.item() == pytest.approx(exact.sum().item(), rel=0.05)
    assert all(gradient.isfinite().all() for gradient in answer.gradients.values())
