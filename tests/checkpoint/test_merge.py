"""A merged model is an ordinary transformers model with the logits of the adapted one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

import tiny_models
from tunesmith.checkpoint import merge
from tunesmith.errors import NotMergeable
from tunesmith.method import Method
from tunesmith.methods.lora import LoRA

CLASSES = {
    "causal": AutoModelForCausalLM,
    "classification": AutoModelForSequenceClassification,
    "seq2seq": AutoModelForSeq2SeqLM,
}
CASES = [("llama", "causal"), ("gpt2", "causal"), ("phi3", "causal"), ("bert", "classification"), ("roberta", "classification")]
CASES += [("gpt_neox", "causal"), ("t5", "seq2seq")]


def _logits(model: nn.Module, task: str) -> Tensor:
    ids = torch.arange(8, 40).view(2, 16)
    extra = {"decoder_input_ids": ids[:, :5]} if task == "seq2seq" else {}
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits


def _tuned(name: str, task: tiny_models.Task, method: Method) -> nn.Module:
    model = tiny_models.build(name, task)
    torch.manual_seed(0)
    method.attach(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


@pytest.mark.parametrize("scaling", ["standard", "rank-stabilized"])
@pytest.mark.parametrize(("name", "task"), CASES, ids=lambda value: value)
def test_logits_are_those_of_the_adapted_model(name: str, task: tiny_models.Task, scaling: str, tmp_path: Path) -> None:
    method = LoRA(rank=4, scaling=scaling)  # pyright: ignore[reportArgumentType]
    model = _tuned(name, task, method).double()
    expected = _logits(model, task)
    merge.merge_and_save(model, method, None, tmp_path / "merged")
    again = CLASSES[task].from_pretrained(tmp_path / "merged", dtype=torch.float64).eval()
    torch.testing.assert_close(_logits(again, task), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(_logits(again, task), _logits(model, task))
    names = {name for name, _ in tiny_models.build(name, task).named_parameters()}
    assert {name for name, _ in model.named_parameters()} == names


def test_float32_is_equal_to_1e5(tmp_path: Path) -> None:
    method = LoRA(rank=4)
    model = _tuned("llama", "causal", method)
    expected = _logits(model, "causal")
    merge.merge_and_save(model, method, None, tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert (_logits(again, "causal") - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_tied_weight_is_never_changed_silently(tmp_path: Path) -> None:
    method = LoRA(rank=2, targets=("lm_head",))
    model = tiny_models.build("llama", tie_word_embeddings=True)
    before = model.model.embed_tokens.weight.detach().clone()
    method.attach(model)
    with pytest.raises(NotMergeable, match="shares its weight with the embeddings"):
        merge.merge_and_save(model, method, None, tmp_path / "merged")
    assert torch.equal(model.model.embed_tokens.weight, before)
    assert not (tmp_path / "merged").exists()


def test_sums_that_leave_the_number_format_are_refused() -> None:
    method = LoRA(rank=2)
    model = _tuned("llama", "causal", method).half()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.b.fill_(6e4)
        model.model.layers[0].mlp.up_proj.a.fill_(6e4)
    with pytest.raises(NotMergeable, match=r"up_proj\.weight' is not finite"):
        merge.merge(model, method)


def test_what_only_adds_computation_is_refused() -> None:
    class Adding(LoRA):
        merge = Method.merge

    with pytest.raises(NotMergeable, match="adds computation"):
        merge.merge(tiny_models.build("llama"), Adding())
