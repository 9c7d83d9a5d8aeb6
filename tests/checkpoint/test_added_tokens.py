"""Adapters that train rows of the embeddings, as they do for added tokens: PEFT's are read, and ours are read by PEFT."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny_models
from tunesmith.checkpoint import adapter, merge, peft_format
from tunesmith.errors import InputError, RunError
from tunesmith.method import Method
from tunesmith.methods.ia3 import IA3
from tunesmith.model import surgery, token_rows

TOKENS = [5, 270, 9]
KINDS = {"causal": "CAUSAL_LM", "classification": "SEQ_CLS", "seq2seq": "SEQ_2_SEQ_LM"}
CASES = [
    ("llama", "causal", {"tie_word_embeddings": False}),
    ("llama", "causal", {"tie_word_embeddings": True}),
    ("gpt2", "causal", {}),
    ("gemma3", "causal", {}),
    ("bert", "classification", {}),
    ("t5", "seq2seq", {"tie_word_embeddings": True}),
    ("bart", "seq2seq", {}),
]
"""Output embeddings of their own and shared ones, an embedding that scales, one module at several places."""
IDS = torch.tensor([[8, 5, 9, 9, 30, 270, 12], [270, 31, 32, 5, 33, 34, 35]])
Case = tuple[str, tiny_models.Task, dict[str, bool]]


def base_model(case: Case) -> nn.Module:
    name, task, changes = case
    return tiny_models.build(name, task, **changes)


def answer(model: nn.Module, case: Case) -> tuple[Tensor, Tensor]:
    """Logits and loss."""
    labels = torch.tensor([0, 2]) if case[1] == "classification" else IDS
    output = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=labels)
    return output.logits, output.loss


def shake(model: nn.Module) -> None:
    """Stand in for training: move everything that learns."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def saved_by_peft(case: Case, folder: Path, **changes: object) -> nn.Module:
    extra = {"fan_in_fan_out": True} if case[0] == "gpt2" else {}
    settings = {"r": 3, "target_modules": "all-linear", "trainable_token_indices": TOKENS, **extra, **changes}
    theirs = peft.get_peft_model(base_model(case), peft.LoraConfig(task_type=KINDS[case[1]], **settings)).eval()
    shake(theirs)
    theirs.save_pretrained(folder)
    return theirs


def loaded(case: Case, folder: Path) -> tuple[nn.Module, Method]:
    model = base_model(case)
    method = peft_format.load(model, folder)
    return model.eval(), method


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}], ids=["lora", "dora"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_peft_saves_is_loaded(case, changes, tmp_path):
    theirs = saved_by_peft(case, tmp_path, **changes).double()
    model, _ = loaded(case, tmp_path)
    (logits, loss), (expected, expected_loss) = answer(model.double(), case), answer(theirs, case)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    loss.backward()
    expected_loss.backward()
    [rows] = {id(p): p for n, p in model.named_parameters() if n.endswith(".rows")}.values()
    [theirs_rows] = [p for n, p in theirs.named_parameters() if p.requires_grad and "trainable_tokens_delta" in n]
    torch.testing.assert_close(rows.grad, theirs_rows.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_peft_loads_what_is_saved_again(case, tmp_path):
    saved_by_peft(case, tmp_path / "peft")
    model, method = loaded(case, tmp_path / "peft")
    shake(model)
    adapter.save(model, method, tmp_path / "ours", base_model="b")
    again, same = loaded(case, tmp_path / "ours")
    assert same == method
    assert torch.equal(answer(again, case)[0], answer(model, case)[0])
    theirs = peft.PeftModel.from_pretrained(base_model(case), tmp_path / "ours").eval()
    torch.testing.assert_close(answer(model.double(), case)[0], answer(theirs.double(), case)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_detached_copied_and_merged(case, tmp_path):
    saved_by_peft(case, tmp_path)
    model, method = loaded(case, tmp_path)
    tuned, base = answer(model, case)[0], base_model(case)
    twin = copy.deepcopy(model)
    shake(twin)
    assert torch.equal(answer(model, case)[0], tuned)
    surgery.detach(twin)
    assert twin.state_dict().keys() == base.state_dict().keys()
    merge.merge(model, method)
    assert model.state_dict().keys() == base.state_dict().keys()
    torch.testing.assert_close(answer(model, case)[0], tuned, rtol=1e-4, atol=1e-4)


def test_rows_of_output_embeddings_of_their_own(tmp_path):
    case = CASES[0]
    theirs = saved_by_peft(case, tmp_path, trainable_token_indices={"embed_tokens": TOKENS, "lm_head": [7]})
    model, method = loaded(case, tmp_path)
    torch.testing.assert_close(answer(model.double(), case)[0], answer(theirs.double(), case)[0], rtol=1e-10, atol=1e-10)
    adapter.save(model, method, tmp_path / "ours", base_model="b")
    again = peft.PeftModel.from_pretrained(base_model(case), tmp_path / "ours").eval()
    torch.testing.assert_close(answer(again.double(), case)[0], answer(theirs, case)[0], rtol=1e-10, atol=1e-10)


def test_only_what_peft_has_is_written_in_its_format(tmp_path):
    model = base_model(CASES[0])
    IA3().attach(model)
    token_rows.train(model, "model.embed_tokens", TOKENS)
    with pytest.raises(RunError, match=r"no format for rows of embeddings beside the type IA3"):
        adapter.save(model, IA3(), tmp_path / "a", base_model="b")


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        ([5, 9], "2 tokens for 3 rows"),
        ([5, 9, 9], "twice"),
        ([5, 9, 272], "272"),
        ([5, 9, -1], "-1"),
        ([5, 9, True], "whole numbers"),
        ("5", "whole numbers"),
        ({"embed": [5, 9, 1]}, "embed_tokens"),
        (None, "trainable_token_indices"),
    ],
    ids=str,
)
def test_indices_that_do_not_fit_are_refused(tokens, named, tmp_path):
    saved_by_peft(CASES[0], tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trainable_token_indices": tokens}))
    with pytest.raises(InputError, match=named):
        peft_format.load(base_model(CASES[0]), tmp_path)


def test_indices_without_rows_are_refused(tmp_path):
    saved_by_peft(CASES[0], tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({n: t for n, t in tensors.items() if "token_adapter" not in n}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="trainable_token_indices"):
        peft_format.load(base_model(CASES[0]), tmp_path)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("how", ["save_embedding_layers", "modules_to_save"])
def test_embeddings_that_were_made_larger(how, tied, tmp_path):
    """PEFT saves them whole; the model must have been made as large before, as for PEFT itself."""
    case = ("llama", "causal", {"tie_word_embeddings": tied})
    larger = base_model(case)
    larger.resize_token_embeddings(275, mean_resizing=False)
    modules = {"modules_to_save": ["embed_tokens", "lm_head"]} if how == "modules_to_save" and not tied else {}
    config = peft.LoraConfig(r=3, target_modules=["q_proj"], task_type="CAUSAL_LM", **modules)
    theirs = peft.get_peft_model(larger, config).eval()
    shake(theirs)
    with torch.no_grad():
        theirs.get_input_embeddings().weight[270:].add_(0.5)
    theirs.save_pretrained(tmp_path, save_embedding_layers=not modules)

    with pytest.raises(InputError, match=r"275.*272.*resize_token_embeddings\(275\)"):
        peft_format.load(base_model(case), tmp_path)
    model = base_model(case)
    model.resize_token_embeddings(275, mean_resizing=False)
    peft_format.load(model, tmp_path)
    torch.testing.assert_close(answer(model.double(), case)[0], answer(theirs.double(), case)[0], rtol=1e-10, atol=1e-10)
    assert model.lm_head.weight.requires_grad
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
