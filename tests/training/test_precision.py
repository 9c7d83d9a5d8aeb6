"""The number format follows the wish or a measurement, and the head stays exact."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from tunesmith.methods.lora import LoRA
from tunesmith.training import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("wish", ["float32", "bfloat16"])
def test_a_wish_is_a_wish(wish: str):
    dtype, sentence = precision.choose(wish, CPU)  # pyright: ignore[reportArgumentType]
    assert (dtype, sentence) == (getattr(torch, wish), f"computing in {wish}, as asked")


@pytest.mark.parametrize(("ratio", "expected"), [(2.04, "bfloat16"), (1.1, "float32"), (0.3, "float32")])
def test_the_faster_format_by_a_margin(monkeypatch: pytest.MonkeyPatch, ratio: float, expected: str):
    speeds = {torch.float32: 10.0, torch.bfloat16: 10.0 * ratio}
    monkeypatch.setattr(precision, "_products_per_second", speeds.__getitem__)
    dtype, sentence = precision.choose("auto", CPU)
    assert dtype == getattr(torch, expected)
    assert f"{ratio:.1f} x as fast" in sentence
    assert f"computing in {expected}" in sentence


@pytest.mark.parametrize("disturbed", [0, 1, 2])
def test_a_disturbed_try_decides_nothing(monkeypatch: pytest.MonkeyPatch, disturbed: int):
    tries = {torch.float32: [10.0, 10.0, 10.0], torch.bfloat16: [20.0, 20.0, 20.0]}
    tries[torch.bfloat16][disturbed] = 9.0
    speeds = {dtype: iter(found) for dtype, found in tries.items()}
    monkeypatch.setattr(precision, "_products_per_second", lambda dtype: next(speeds[dtype]))
    assert precision.choose("auto", CPU)[0] == torch.bfloat16


def test_the_probe_measures():
    assert precision._products_per_second(torch.float32) > 1


def test_frozen_weights_are_cast_and_the_head_is_not():
    model = tiny_models.build("bert", "classification")
    precision.store_frozen(model, torch.bfloat16)
    exact = {n for n, p in model.named_parameters() if p.dtype == torch.float32}
    assert exact == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}


def test_the_output_embeddings_are_cast_with_the_rest():
    model = tiny_models.build("llama", tie_word_embeddings=True)
    precision.store_frozen(model, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_what_a_method_adds_is_float32():
    model = tiny_models.build("llama", "classification")
    precision.store_frozen(model, torch.bfloat16)
    LoRA().attach(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_trained_base_weights_are_named_with_their_format():
    model = tiny_models.build("bert", "classification")
    assert precision.stored_as(model, torch.float32) == {}
    stored = precision.stored_as(model, torch.bfloat16)
    assert set(stored.values()) == {torch.bfloat16}
    assert {n for n, _ in model.named_parameters()} - set(stored) == {
        "classifier.weight",
        "classifier.bias",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    }
