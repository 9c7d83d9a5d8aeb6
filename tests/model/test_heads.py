"""A model's own head over gathered rows: the answers are those of the model, in float32, whatever the base is stored in."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from tunesmith.kernels.segments import Segments
from tunesmith.model import anatomy, heads
from tunesmith.training import precision

LENGTHS = [4, 1, 6]


@pytest.mark.parametrize("name", [*tiny_models.DECODERS, *tiny_models.ENCODERS])
def test_each_row_gets_the_head_over_its_own_states(name: str):
    model = tiny_models.build(name, "classification")
    ids = torch.arange(20, 20 + sum(LENGTHS))
    with torch.no_grad():
        states = [model.base_model(input_ids=row[None]).last_hidden_state[0] for row in ids.split(LENGTHS)]
        expected = torch.cat([model(input_ids=row[None]).logits for row in ids.split(LENGTHS)])
        found = heads.class_logits(model, torch.cat(states), Segments(LENGTHS), ids)
    assert found.shape == (3, 3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "bert", "roberta", "modernbert"])
def test_the_body_is_not_run_again_and_is_back_afterwards(name: str):
    model = tiny_models.build(name, "classification")
    calls: list[object] = []
    model.base_model.register_forward_pre_hook(lambda *arguments: calls.append(arguments[0]))
    forward = model.base_model.forward
    hidden = torch.randn(sum(LENGTHS), 32)
    ids = torch.full((sum(LENGTHS),), 9)
    heads.class_logits(model, hidden, Segments(LENGTHS), ids)
    assert model.base_model.forward == forward
    assert "forward" not in vars(model.base_model)


@pytest.mark.parametrize("name", ["llama", "bert", "roberta", "modernbert"])
def test_a_head_stays_float32_over_a_bfloat16_body(name: str):
    model = tiny_models.build(name, "classification")
    precision.store_frozen(model, torch.bfloat16)
    assert anatomy.head_dtype(model) == torch.float32
    hidden = torch.randn(sum(LENGTHS), 32).bfloat16()
    logits = heads.class_logits(model, hidden, Segments(LENGTHS), torch.full((sum(LENGTHS),), 9))
    assert logits.dtype == torch.float32


def test_the_language_head_is_the_models_output_layer():
    model = tiny_models.build("llama")
    assert heads.language_head(model).weight is model.lm_head.weight
