"""Our kernels stand where they agree with the model, also in the number format and the mode that are chosen later."""

from __future__ import annotations

import pytest
import torch

import packed_cases
import tiny_models
from tunesmith.methods.lora import LoRA
from tunesmith.model import fast_paths, trial
from tunesmith.model.activation import as_gelu
from tunesmith.training import precision


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_in_bfloat16(name: str):
    """What was tried in float32 computes in bfloat16, too: some models rotate by float32 angles whatever they compute in."""
    model = tiny_models.build(name)
    batch = packed_cases.batch(model, "causal")
    chosen, _ = trial.choose(model, classification=False)
    exact = chosen.target_losses(batch)
    precision.store_frozen(model, torch.bfloat16)
    LoRA(rank=2).attach(model)
    answer = packed_cases.together(chosen, batch)
    assert answer.loss.item() == pytest.approx(exact.sum().item(), rel=0.05)
    assert all(gradient.isfinite().all() for gradient in answer.gradients.values())


@pytest.mark.parametrize(("rate", "is_replaced"), [(0.1, False), (0.0, True)])
def test_a_gated_layer_with_dropout_of_its_own_stays(rate: float, is_replaced: bool):
    """Seed-OSS drops numbers behind the last projection; without them, half of `--model-dropout on` would do nothing."""
    model = tiny_models.build("seed_oss", residual_dropout=rate)
    counts = fast_paths.install(model)
    assert ("FastGatedMLP" in counts) == is_replaced
    assert not any(module.training for module in model.modules()), "left as it was found"


@pytest.mark.parametrize(
    ("name", "activation", "is_replaced"),
    [("gpt2", "gelu_new", True), ("gpt2", "gelu_pytorch_tanh", True), ("gpt2", "gelu", False), ("gpt2", "relu", False)],
)
def test_the_activation_is_known_by_what_it_answers(name: str, activation: str, is_replaced: bool):
    model = tiny_models.build(name, activation_function=activation)
    assert fast_paths.install(model).get("FastGELU", 0) == (2 if is_replaced else 0)


def test_an_activation_on_odd_modules_is_none():
    class TwoInputs(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    class NoTensor(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> str:
            return str(x)

    odd = [TwoInputs(), NoTensor(), torch.nn.Identity(), torch.nn.Dropout(0.5), torch.nn.Flatten(0), torch.nn.Linear(1, 1)]
    odd += [torch.nn.Unfold((3, 1)), torch.nn.ZeroPad2d((0, 0, 1, -1))]  # ConvBERT's and RWKV's, which fail on a vector
    assert [as_gelu(module) for module in odd] == [None] * len(odd)
