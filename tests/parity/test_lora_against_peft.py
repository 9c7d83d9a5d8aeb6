"""The same factors give the same logits and gradients as in `peft`, whose format the adapters are written in."""

from __future__ import annotations

import math

import peft
import pytest
import torch
from torch import nn

import tiny_models
from tunesmith.methods.lora import LoRA, LoRALinear

RANK, ALPHA = 4, 12.0


def _batch(task: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(8, tiny_models.VOCABULARY_SIZE, (3, 11), generator=generator)
    labels = torch.tensor([0, 2, 1]) if task == "classification" else ids
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _pair(name: str, task: tiny_models.Task, scaling: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """Our model and peft's, with the same random factors, in `dtype`."""
    ours = tiny_models.build(name, task)
    LoRA(rank=RANK, alpha=ALPHA, scaling=scaling).attach(ours)
    paths = [path for path, module in ours.named_modules() if isinstance(module, LoRALinear)]
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=paths,
        use_rslora=scaling == "rank-stabilized",
        fan_in_fan_out=name == "gpt2",
        lora_dropout=0.0,
    )
    theirs = peft.get_peft_model(tiny_models.build(name, task), config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for path in paths:
            layer, reference = ours.get_submodule(path), theirs.base_model.model.get_submodule(path)
            layer.a.copy_(torch.randn(layer.a.shape, generator=generator) * 0.1)
            layer.b.copy_(torch.randn(layer.b.shape, generator=generator) * 0.1)
            reference.lora_A["default"].weight.copy_(layer.a)
            reference.lora_B["default"].weight.copy_(layer.b)
    assert paths, "nothing was adapted"
    return ours.to(dtype), theirs.to(dtype)


def _close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Equal to `tolerance` of the largest entry, or of one."""
    difference, largest = (actual - expected).abs().max().item(), expected.abs().max().item()
    assert difference <= tolerance * max(1.0, largest), f"{difference} of {largest}"


@pytest.mark.parametrize(
    ("scaling", "dtype"),
    [("standard", torch.float32), ("standard", torch.float64), ("rank-stabilized", torch.float64)],
    ids=str,
)
@pytest.mark.parametrize(("name", "task"), [("llama", "causal"), ("gpt2", "causal"), ("bert", "classification")])
def test_logits_and_gradients(name, task, scaling, dtype):
    ours, theirs = _pair(name, task, scaling, dtype)
    batch = _batch(task)
    mine, reference = ours(**batch), theirs(**batch)
    _close(mine.logits, reference.logits, 1e-6 if dtype == torch.float32 else 1e-13)
    mine.loss.backward()
    reference.loss.backward()
    # In float64 only the gradient itself is rounded to float32; in float32 so is every sum before it.
    tolerance = 5e-6 if dtype == torch.float32 else 1e-7
    for path, layer in ours.named_modules():
        if isinstance(layer, LoRALinear):
            expected = theirs.base_model.model.get_submodule(path)
            _close(layer.a.grad, expected.lora_A["default"].weight.grad, tolerance)
            _close(layer.b.grad, expected.lora_B["default"].weight.grad, tolerance)


def test_the_scale_matters():
    """A wrong scale is ten thousand times outside the tolerance."""
    ours, theirs = _pair("llama", "causal", "standard")
    for layer in ours.modules():
        if isinstance(layer, LoRALinear):
            layer.scale = ALPHA / math.sqrt(RANK)
    batch = _batch("causal")
    with pytest.raises(AssertionError):
        _close(ours(**batch).logits, theirs(**batch).logits, 1e-2)


def test_merged_weights_are_those_of_peft():
    ours, theirs = _pair("llama", "causal", "standard")
    method = LoRA(rank=RANK, alpha=ALPHA)
    method.merge(ours)
    merged = theirs.merge_and_unload()
    for (name, mine), (_, reference) in zip(ours.named_parameters(), merged.named_parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-6, msg=name)
