"""Every method that leaves the base weights alone keeps its promises over a base in few bits, too."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import method_promises
from method_promises import PROMISES, Case
from tunesmith import registry
from tunesmith.method import Method
from tunesmith.model import quantize

METHODS = [registry.find("tunesmith.methods", name, Method) for name in registry.names("tunesmith.methods")]
ADDED = [cls for cls in METHODS if not cls.trains_base_weights]
OTHERWISE = (
    method_promises.merge_keeps_the_function_or_says_why_not,  # below
    method_promises.attaches_without_weights,  # builds its model by itself
)


@dataclass(frozen=True)
class Quantized(Case):
    """A tiny model with its linear layers in four bits."""

    def model(self) -> nn.Module:
        model = super().model()
        quantize.quantize(model, 4)
        return model


LLAMA = Quantized("llama", "causal")


@pytest.mark.parametrize("promise", [p for p in PROMISES if p not in OTHERWISE], ids=lambda p: p.__name__)
@pytest.mark.parametrize("cls", ADDED, ids=lambda cls: cls.name)
def test_promise(cls, promise):
    promise(cls(), LLAMA)


@pytest.mark.parametrize("cls", [cls for cls in ADDED if cls.mergeable], ids=lambda cls: cls.name)
def test_merged_after_dequantising_it_answers_like_the_tuned_model(cls):
    model, again = LLAMA.model(), LLAMA.model()
    torch.manual_seed(0)
    cls().attach(model)
    LLAMA.train(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    quantize.dequantize(again)
    torch.manual_seed(0)
    cls().attach(again)
    with torch.no_grad():
        for name, parameter in trained.items():
            again.get_parameter(name).copy_(parameter)
    cls().merge(again)
    torch.testing.assert_close(LLAMA.logits(again), LLAMA.logits(model), rtol=1e-4, atol=1e-4)
