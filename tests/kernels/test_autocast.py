"""Inside of `torch.autocast`, as in the commonest loop there is, our products are in its number format like torch's own."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from tunesmith.methods.dora import DoRA
from tunesmith.methods.lora import LoRA
from tunesmith.model import trial

IDS = torch.arange(8, 20)[None]


def _losses_and_gradients(model: torch.nn.Module, *, autocast: bool) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", [LoRA(rank=2), DoRA(rank=2)], ids=["lora", "dora"])
@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
@pytest.mark.parametrize("fast", [False, True])
def test_a_step_in_autocast_is_near_the_one_in_float32(method: LoRA | DoRA, name: str, fast: bool):
    model = tiny_models.build(name)
    if fast:
        trial.choose(model, classification=False)
    method.attach(model)
    exact_loss, exact = _losses_and_gradients(model, autocast=False)
    loss, found = _losses_and_gradients(model, autocast=True)
    assert loss == pytest.approx(exact_loss, rel=0.05)
    assert found.keys() == exact.keys()
    for key, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert (gradient - exact[key]).norm() <= 0.2 * exact[key].norm(), key  # as far off as by autograd


def test_the_output_is_in_the_format_of_autocast():
    model = tiny_models.build("llama")
    LoRA(rank=2).attach(model)
    layer, x = model.get_submodule("model.layers.0.self_attn.q_proj"), torch.randn(3, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32
