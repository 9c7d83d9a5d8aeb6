"""The same encoder weights make the same prompt, logits and gradients as in `peft`, which saves only the prompt."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import Tensor, nn

import tiny_models
from tunesmith.methods.ptuning import PTuning
from tunesmith.model import virtual_tokens

KINDS = {"causal": "CAUSAL_LM", "classification": "SEQ_CLS", "seq2seq": "SEQ_2_SEQ_LM"}


def _pair(name: str, task: tiny_models.Task, encoder: str) -> tuple[nn.Module, nn.Module, dict[str, str]]:
    ours = tiny_models.build(name, task)
    PTuning(num_tokens=4, hidden=10, encoder=encoder).attach(ours)
    config = peft.PromptEncoderConfig(
        num_virtual_tokens=4,
        encoder_hidden_size=10,
        encoder_reparameterization_type=encoder.upper(),
        task_type=KINDS[task],
        num_transformer_submodules=1,
    )
    theirs = peft.get_peft_model(tiny_models.build(name, task), config)
    path = virtual_tokens.find(ours)[0]
    reference = theirs.prompt_encoder["default"]
    names = {"vectors": "embedding.weight"}
    for mine, other in (("mlp", "mlp_head"), ("lstm", "lstm_head")):
        layer = getattr(reference, other, None)
        names |= {f"{mine}.{n}": f"{other}.{n}" for n, _ in (layer.named_parameters() if layer is not None else ())}
    with torch.no_grad():
        for mine, other in names.items():
            ours.get_parameter(f"{path}.{mine}").copy_(reference.get_parameter(other))
    learnt = {n.removeprefix(f"{path}.") for n, p in ours.named_parameters() if p.requires_grad and n.startswith(path)}
    assert learnt == set(names)
    return ours.double().eval(), theirs.double().eval(), names


def _close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (actual - expected).abs().max() <= tolerance * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
@pytest.mark.parametrize(("name", "task"), [("llama", "causal"), ("bert", "classification"), ("t5", "seq2seq")])
def test_logits_and_gradients(name, task, encoder):
    ours, theirs, names = _pair(name, task, encoder)
    ids = torch.randint(8, tiny_models.VOCABULARY_SIZE, (2, 7), generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 2]) if task == "classification" else ids.clone()
    if task == "causal":
        labels[:, 0] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    mine, reference = ours(**batch), theirs(**batch)
    _close(mine.logits, reference.logits if task == "classification" else reference.logits[:, -7:], 1e-12)
    mine.loss.backward()
    reference.loss.backward()
    path, encoder_of_peft = virtual_tokens.find(ours)[0], theirs.prompt_encoder["default"]
    for own, other in names.items():
        _close(ours.get_parameter(f"{path}.{own}").grad, encoder_of_peft.get_parameter(other).grad, 1e-12)
