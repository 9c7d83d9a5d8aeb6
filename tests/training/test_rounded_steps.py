"""Steps over a base in eight bits: inputs are rounded where gradients are found and that is faster, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_models
import tiny_runs
from tunesmith.data.pack import pack
from tunesmith.kernels import rounded
from tunesmith.methods.ia3 import IA3
from tunesmith.methods.lora import LoRA
from tunesmith.methods.prompt import Prompt
from tunesmith.model import quantize
from tunesmith.model.forward import PackedForward
from tunesmith.training.gradients import Learner, Pass
from tunesmith.training.optimizer import FlatAdamW

METHODS = [LoRA(rank=2), IA3(), Prompt(num_tokens=3)]


def _found(method, monkeypatch: pytest.MonkeyPatch, *, pays: bool) -> tuple[float, Tensor, int, PackedForward]:
    """Loss and gradients of one pass, how many products were of whole numbers, and the model."""
    model = tiny_models.build("llama", "causal")
    quantize.quantize(model, 8)
    torch.manual_seed(0)
    method.attach(model)
    forward, optimizer = PackedForward(model), FlatAdamW(model.named_parameters(), 0.0)
    seen, real = [], rounded.add_product
    monkeypatch.setattr(rounded, "add_product", lambda *given: seen.append(given) or real(*given))
    monkeypatch.setattr(rounded, "pay", lambda device_type: pays)
    loss = Learner(forward, optimizer).accumulate([Pass(pack(tiny_runs.language_table(), np.arange(4)), 0)]).item()
    return loss, torch.cat([group.gradients for group in optimizer._groups]), len(seen), forward


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_inputs_are_rounded_where_it_pays(method, monkeypatch: pytest.MonkeyPatch):
    exact, other = (_found(method, monkeypatch, pays=pays) for pays in (False, True))
    assert exact[2] == 0
    assert other[2] > 0
    assert other[0] == pytest.approx(exact[0], rel=0.01)
    assert 1e-5 < (other[1] - exact[1]).norm() / exact[1].norm() < 0.15


def test_an_evaluation_never_rounds_them(monkeypatch: pytest.MonkeyPatch):
    _, _, count, forward = _found(LoRA(rank=2), monkeypatch, pays=True)
    monkeypatch.setattr(rounded, "add_product", lambda *given: pytest.fail("an input was rounded"))
    assert count > 0
    assert forward.target_losses(pack(tiny_runs.language_table(), np.arange(4))).isfinite().all()
