"""Virtual tokens cost what they must: once per stream in a decoder, and nothing is left of them in the answers."""

from __future__ import annotations

import copy

import pytest
import torch

import tiny_models
from tunesmith.methods.prefix import PrefixTuning
from tunesmith.methods.prompt import Prompt
from tunesmith.methods.ptuning import PTuning
from tunesmith.model import surgery, virtual_tokens
from tunesmith.model.batch import Batch
from tunesmith.model.forward import PackedForward, PaddedForward

LENGTHS = [9, 4, 6]
METHODS = [Prompt(num_tokens=5), PTuning(num_tokens=5), PrefixTuning(num_tokens=5), PrefixTuning(num_tokens=5, hidden=8)]


def _batch() -> Batch:
    ids = torch.randint(8, tiny_models.VOCABULARY_SIZE, (sum(LENGTHS),), generator=torch.Generator().manual_seed(2))
    return Batch(input_ids=ids, lengths=LENGTHS, targets=torch.tensor([0, 2, 1]))


def _tokens_seen(model: torch.nn.Module, batch: Batch) -> list[int]:
    """How many tokens the first feed-forward layer of a forward pass works on."""
    seen: list[int] = []
    layer = next(m for n, m in model.named_modules() if n.endswith(("mlp", "intermediate")))
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    PackedForward(model).target_losses(batch)
    handle.remove()
    return seen


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        ("llama", Prompt(num_tokens=5), sum(LENGTHS) + 5),
        ("llama", PTuning(num_tokens=5), sum(LENGTHS) + 5),
        ("llama", PrefixTuning(num_tokens=5), sum(LENGTHS)),
        ("bert", Prompt(num_tokens=5), sum(LENGTHS) + 5 * len(LENGTHS)),
        ("bert", PrefixTuning(num_tokens=5), sum(LENGTHS)),
    ],
)
def test_a_stream_has_them_as_often_as_it_must(name, method, expected):
    model = tiny_models.build(name, "classification")
    method.attach(model)
    assert _tokens_seen(model, _batch()) == [expected]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_they_are_made_once_per_pass(method):
    model = tiny_models.build("llama", "classification")
    method.attach(model)
    calls: list[int] = []
    virtual_tokens.find(model)[1].register_forward_hook(lambda *_: calls.append(1))
    forward, batch = PackedForward(model), _batch()
    with forward.scope(batch):
        forward.loss(batch).backward()
    assert len(calls) == 1


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_scope_may_run_the_model_more_than_once(method):
    model = tiny_models.build("llama", "classification")
    method.attach(model)
    forward, batch = PackedForward(model), _batch()
    with torch.no_grad(), forward.scope(batch):
        assert torch.equal(forward.loss(batch), forward.loss(batch))


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("kind", [PackedForward, PaddedForward])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_the_base_model_answers_while_they_are_set_aside(name, kind, method):
    base = tiny_models.build(name, "classification")
    model = copy.deepcopy(base)
    method.attach(model)
    tuned = kind(model).class_logits(_batch())
    with surgery.detached(model):
        assert torch.equal(kind(model).class_logits(_batch()), kind(base).class_logits(_batch()))
    assert torch.equal(kind(model).class_logits(_batch()), tuned)
    assert not torch.equal(tuned, kind(base).class_logits(_batch()))


def test_nothing_is_left_in_the_answer():
    model = tiny_models.build("llama", "causal")
    Prompt(num_tokens=5).attach(model)
    ids = torch.arange(8, 20).view(2, 6)
    assert model(input_ids=ids).logits.shape[:2] == ids.shape
    assert model.model(input_ids=ids).last_hidden_state.shape[:2] == ids.shape


def test_padding_on_the_left_stays_outermost():
    """A window counts positions, so virtual tokens must stand beside the words and not before the padding."""
    model = tiny_models.build("mistral", "causal")
    Prompt(num_tokens=3).attach(model)
    ids = torch.tensor([[0, 0, 9, 10, 11]])
    mask, positions = (ids > 0).long(), torch.tensor([[0, 0, 0, 1, 2]])
    with torch.no_grad():
        padded = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, 2:]
        alone = model(input_ids=ids[:, 2:], attention_mask=mask[:, 2:]).logits
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)


def test_the_number_of_trained_values_is_that_of_the_formula():
    """2 L p H_kv for a prefix, p H for a prompt."""
    model = tiny_models.build("llama", "causal")
    PrefixTuning(num_tokens=7).attach(model)
    config = model.config
    assert _num_trained(model) == 2 * config.num_hidden_layers * 7 * config.num_key_value_heads * config.head_dim
    model = tiny_models.build("llama", "causal")
    Prompt(num_tokens=7).attach(model)
    assert _num_trained(model) == 7 * config.hidden_size
    assert virtual_tokens.count(model) == 7


def _num_trained(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
