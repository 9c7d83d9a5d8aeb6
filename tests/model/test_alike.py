"""Layers that are made alike answer for each other in a trial; one that is not must be tried itself."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import packed_cases
import tiny_models
from tunesmith.model import alike, anatomy, surgery, trial
from tunesmith.model.forward import PackedForward, PaddedForward

SIX = {
    "gpt2": {"n_layer": 6},
    "distilbert": {"n_layers": 6},
    "gemma3": {"num_hidden_layers": 6, "layer_types": None, "sliding_window_pattern": 3},
}
COMPUTING = {"gemma3": [0, 1, 2, 5], "modernbert": [0, 1, 3, 5]}
"""Of six layers, where it is not the first two and the last: the first that sees everything, and has all norms, comes later."""
KINDS = [(n, "causal") for n in tiny_models.DECODERS] + [(n, "classification") for n in tiny_models.ENCODERS]
every_kind = pytest.mark.parametrize(("name", "task"), KINDS, ids=[name for name, _ in KINDS])


def six_layers(name: str, task: tiny_models.Task = "causal", **changes: Any):
    return tiny_models.build(name, task, **SIX.get(name, {"num_hidden_layers": 6}), **changes)


def layers_of(model: nn.Module) -> nn.ModuleList:
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 6)


def computing(model: Any, task: tiny_models.Task) -> list[int]:
    """Which layers' parts run in a pass while those alike are left out."""
    ran: list[int] = []
    for number, layer in enumerate(layers_of(model)):
        inner = next(m for m in layer.modules() if anatomy.is_linear(m))
        inner.register_forward_hook(lambda *_, number=number: ran.append(number))
    with alike.left_out(model):
        PaddedForward(model).target_losses(packed_cases.batch(model, task))
    return sorted(set(ran))


@every_kind
def test_one_of_each_kind_computes_and_all_do_afterwards(name: str, task: tiny_models.Task):
    model = six_layers(name, task)
    batch = packed_cases.batch(model, task)
    before = PaddedForward(model).target_losses(batch)
    with alike.left_out(model):
        short = PaddedForward(model).target_losses(batch)
        packed = PackedForward(model).target_losses(batch)
    assert not torch.allclose(short, before, atol=1e-3)
    torch.testing.assert_close(packed, short, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(PaddedForward(model).target_losses(batch), before, rtol=0, atol=0)
    assert computing(model, task) == COMPUTING.get(name, [0, 1, 5])


def test_what_a_configuration_lists_for_a_layer_tells_it_apart():
    """SmolLM3 turns no queries in every fourth layer."""
    model = six_layers("smollm3", no_rope_layer_interval=4)
    assert computing(model, "causal") == [0, 1, 3, 5]


class Mixing(nn.Module):
    """Lets each token see the one before it, also that of another row."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x.roll(1, dims=1)


def test_an_odd_layer_in_the_middle_is_tried():
    model = six_layers("llama")
    odd = cast("nn.Module", layers_of(model)[3])
    odd.mlp = Mixing(cast("nn.Module", odd.mlp))
    chosen, reason = trial.choose(model, classification=False)
    assert isinstance(chosen, PaddedForward)
    assert reason is not None
    assert "answers differently when packed" in reason


def test_a_forward_of_its_own_and_a_hook_tell_a_layer_apart():
    model = six_layers("llama")
    third, fourth = (cast("Any", layers_of(model)[n]) for n in (2, 3))
    fourth.mlp.register_forward_hook(lambda *_: None)
    with surgery.stand_in(third.mlp, third.mlp.forward):
        assert computing(model, "causal") == [0, 1, 2, 3, 5]


class MixingLater(Mixing):
    """The same in layers that are not the first; nothing but the number tells them apart."""

    def __init__(self, inner: nn.Module, number: int) -> None:
        super().__init__(inner)
        self.layer_idx = number

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.layer_idx else self.inner(x)


def test_what_depends_on_the_number_of_a_layer_shows():
    model = six_layers("llama")
    for number, layer in enumerate(layers_of(model)):
        layer.mlp = MixingLater(cast("nn.Module", layer.mlp), number)
    assert computing(model, "causal") == [0, 1, 5]
    assert isinstance(trial.choose(model, classification=False)[0], PaddedForward)


def test_a_layer_that_gives_a_tuple_is_passed_by_with_one():
    model = six_layers("llama")
    layers = layers_of(model)

    class Tupled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: Any, **settings: Any) -> tuple[Tensor, str]:
            return self.inner(*args, **settings), "weights"

    for number in range(6):
        layers[number] = Tupled(cast("nn.Module", layers[number]))
    seen: list[object] = []
    with alike.left_out(model):
        hidden = torch.zeros(1, 2, 32)
        angles = torch.zeros(1, 2, 8)
        for layer in layers:
            hidden, also = layer(hidden, position_embeddings=(angles, angles))
            seen.append(also)
    assert seen == ["weights"] * 6


def test_a_model_whose_layers_are_not_found_computes_with_all():
    model = six_layers("llama")
    model.config.num_hidden_layers = 5
    assert computing(model, "causal") == [0, 1, 2, 3, 4]
