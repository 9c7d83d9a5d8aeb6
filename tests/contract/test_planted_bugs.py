"""The contract catches what it is there for: each method below has one bug, and one promise that must name it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import method_promises
from method_promises import Case
from tunesmith.method import Method
from tunesmith.methods.lora import LoRA, LoRALinear
from tunesmith.model import surgery

LLAMA = Case("llama", "causal")


def _layers(model: nn.Module) -> list[LoRALinear]:
    return [m for m in model.modules() if isinstance(m, LoRALinear)]


@dataclass(frozen=True, kw_only=True)
class RandomStart(LoRA):
    """Both factors are random, so training starts from a damaged model."""

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        for layer in _layers(model):
            nn.init.normal_(layer.b)


@dataclass(frozen=True, kw_only=True)
class ForgottenFreeze(LoRA):
    """The base weights learn too."""

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        model.requires_grad_(True)


@dataclass(frozen=True, kw_only=True)
class DeadTensor(LoRA):
    """A tensor is trainable, counted and saved, but nothing is computed with it."""

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        for layer in _layers(model):
            layer.register_parameter("unused", nn.Parameter(torch.ones(1)))


@dataclass(frozen=True, kw_only=True)
class WrongMergeFactor(LoRA):
    """The merge forgets the scale."""

    def merge(self, model: nn.Module) -> None:
        for layer in _layers(model):
            layer.scale = 1.0
        super().merge(model)


@dataclass(frozen=True, kw_only=True)
class ForgottenUndo(LoRA):
    """A module is added behind the ledger's back, so nobody takes it away."""

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        model.get_submodule("model.layers.0").add_module("gate", nn.Linear(1, 1))


@dataclass(frozen=True, kw_only=True)
class RememberingHook(Method):
    """A hook reads its tensor from a closure, so a copy answers with the original's."""

    name = "remembering-hook"
    paper = "none"
    mergeable = False
    learning_rate = learning_rate_small = 1e-3

    def attach(self, model: nn.Module) -> None:
        surgery.freeze(model)
        surgery.add(model, "shift", nn.Linear(32, 1, bias=False))
        weight = nn.init.zeros_(model.get_parameter("shift.weight"))

        def after(_module: nn.Module, _inputs: tuple, _named: dict, output: torch.Tensor) -> torch.Tensor:
            return output + weight

        surgery.hook(model, "model.norm", after=after)


@dataclass(frozen=True, kw_only=True)
class PositionBlind(RememberingHook):
    """A change by the row of the call, not by the position of the token: cached steps are always row 0."""

    def attach(self, model: nn.Module) -> None:
        surgery.freeze(model)
        surgery.add(model, "shift", nn.Embedding(64, 32))
        nn.init.zeros_(model.get_parameter("shift.weight"))

        def after(module: nn.Module, _inputs: tuple, _named: dict, output: torch.Tensor) -> torch.Tensor:
            return output + module.get_parameter("shift_of_rows")[: output.shape[1]]

        embedding = model.get_submodule("model.embed_tokens")
        embedding.register_parameter("shift_of_rows", model.get_parameter("shift.weight"))
        surgery.hook(model, "model.embed_tokens", after=after)


@pytest.mark.parametrize(
    ("method", "promise"),
    [
        (RandomStart(), method_promises.starts_as_the_base_model),
        (ForgottenFreeze(), method_promises.base_weights_learn_only_if_the_class_says_so),
        (DeadTensor(), method_promises.exactly_the_trainable_tensors_move),
        (WrongMergeFactor(), method_promises.merge_keeps_the_function_or_says_why_not),
        (ForgottenUndo(), method_promises.detach_restores_the_base_model),
        (RememberingHook(), method_promises.a_copy_is_independent),
        (PositionBlind(), method_promises.cached_decoding_equals_the_plain_forward),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_the_bug_is_caught(method, promise):
    with pytest.raises(AssertionError):
        promise(method, LLAMA)


def test_without_a_bug_nothing_is_caught():
    for promise in method_promises.PROMISES:
        promise(LoRA(), LLAMA)
