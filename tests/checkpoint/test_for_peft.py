"""What is another method to PEFT is saved for PEFT beside our own files: PiSSA as LoRA of twice the rank."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

import tiny_models
from tunesmith.checkpoint import adapter
from tunesmith.methods.pissa import PiSSA
from tunesmith.model import surgery


def _tuned(name: str, task: tiny_models.Task, rank: int = 3) -> tuple[nn.Module, PiSSA]:
    model, method = tiny_models.build(name, task), PiSSA(rank=rank)
    method.attach(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval(), method


@torch.no_grad()
def _logits(model: nn.Module) -> Tensor:
    ids = torch.arange(8, 30).reshape(2, 11)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), **_for_the_decoder(model, ids)).logits


def _for_the_decoder(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    return {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}  # pyright: ignore


@pytest.mark.parametrize("rank", [3, 40], ids=["few directions", "more than there are"])
@pytest.mark.parametrize(
    ("name", "task"), [("llama", "causal"), ("gpt2", "causal"), ("bert", "classification"), ("bart", "seq2seq")]
)
def test_pissa_computes_the_same_in_peft(name: str, task: tiny_models.Task, rank: int, tmp_path: Path):
    model, method = _tuned(name, task, rank)
    adapter.save(model, method, tmp_path / "adapter", base_model="some/base")
    base = tiny_models.build(name, task).eval()
    assert (_logits(model) - _logits(base)).abs().max() > 0.1, "an adapter that changes nothing would prove nothing"
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(_logits(theirs.double()), _logits(model.double()), rtol=1e-9, atol=1e-9)


def test_what_peft_cannot_hold_is_kept_in_our_form(tmp_path: Path):
    """PEFT's files hold whole modules; here the bias of one learns and its weight does not."""
    model, method = _tuned("bert", "classification")
    surgery.thaw(model, ["bert.embeddings.LayerNorm.bias"])
    adapter.save(model, method, tmp_path / "adapter", base_model="some/base")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {"method.json", "trained.safetensors"}


def test_here_it_is_read_as_what_it_is(tmp_path: Path):
    model, method = _tuned("llama", "causal")
    adapter.save(model, method, tmp_path / "adapter", base_model="some/base")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "method.json",
        "trained.safetensors",
    }
    again = tiny_models.build("llama")
    assert adapter.load(again, tmp_path / "adapter") == method
    assert torch.equal(_logits(again.eval()), _logits(model))
