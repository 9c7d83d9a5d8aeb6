"""Every method that PEFT has gives PEFT's logits and gradients, and its files are read both ways. Found by discovery."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

import tiny_models
from tunesmith import registry
from tunesmith.checkpoint import adapter, peft_format
from tunesmith.checkpoint.trained import trainable
from tunesmith.interchange import NotInPeftFormat, PeftFormat
from tunesmith.method import Method
from tunesmith.methods.prefix import PrefixTuning

METHODS = [
    name
    for name in registry.names("tunesmith.methods")
    if issubclass(registry.find("tunesmith.methods", name, Method), PeftFormat)
]
DECODERS = [("llama", "causal"), ("gpt2", "causal")]
CASES = [*DECODERS, ("llama", "classification"), ("bert", "classification"), ("t5", "seq2seq"), ("bart", "seq2seq")]
ODD = {"t5": {"num_layers": 3}, "bart": {"encoder_layers": 3, "decoder_layers": 3}}
"""With an even number of layers PEFT ties the prefixes of an encoder-decoder's layers two by two."""
KINDS = {"causal": "CAUSAL_LM", "classification": "SEQ_CLS", "seq2seq": "SEQ_2_SEQ_LM"}
PEFT_CONFIGS = {
    "lora": lambda **facts: peft.LoraConfig(r=4, target_modules="all-linear", **facts),
    "dora": lambda **facts: peft.LoraConfig(r=4, target_modules="all-linear", use_dora=True, **facts),
    "ia3": lambda **facts: peft.IA3Config(**facts),
    "vera": lambda **facts: peft.VeraConfig(r=16, target_modules="all-linear", **facts),
    "prompt": lambda **facts: peft.PromptTuningConfig(num_virtual_tokens=5, **facts),
    "ptuning": lambda **facts: peft.PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=12, **facts),
    "prefix": lambda **facts: peft.PrefixTuningConfig(num_virtual_tokens=5, **facts),
}
"""The reference's own settings; a method that is missing here fails."""
MADE_BY_A_NETWORK = {"ptuning"}
"""What is saved are its results, so it is compared in `test_ptuning_against_peft.py`."""


def batch(task: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(8, tiny_models.VOCABULARY_SIZE, (3, 11), generator=generator)
    labels = torch.tensor([0, 2, 1]) if task == "classification" else ids[:, :7].contiguous()
    if task == "causal":
        labels = ids.clone()
        labels[:, 0] = -100  # behind a prompt PEFT lets the first word be predicted too; nothing else does
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def base_model(case: tuple[str, tiny_models.Task]) -> nn.Module:
    return tiny_models.build(*case, **ODD.get(case[0], {}))


def shake(model: nn.Module, seed: int = 3) -> None:
    """Stand in for training: move everything that learns."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal to `tolerance` of the largest entry, or of one."""
    difference, largest = (actual - expected).abs().max().item(), expected.abs().max().item()
    assert actual.shape == expected.shape
    assert difference <= tolerance * max(1.0, largest), f"{difference} of {largest}"


def logits(model: nn.Module, case: tuple[str, tiny_models.Task]) -> Tensor:
    """Of the words, without those that PEFT gives for virtual tokens too."""
    inputs = batch(case[1])
    with torch.no_grad():
        given = model(**inputs).logits
    return given[:, -inputs["labels"].shape[1] :] if inputs["labels"].ndim == 2 else given


def tuned(name: str, case: tuple[str, tiny_models.Task]) -> tuple[nn.Module, Method]:
    method = registry.find("tunesmith.methods", name, Method)()
    model = base_model(case)
    torch.manual_seed(0)
    method.attach(model)
    shake(model)
    return model.eval(), method


def in_peft(model: nn.Module, method: Method, case: tuple[str, tiny_models.Task], folder: Path) -> nn.Module:
    """The same adapter in PEFT, by way of its files."""
    peft_format.write(model, method, folder, base_model="some/base")
    inputs_only = peft.PeftConfig.from_pretrained(folder).is_prompt_learning  # which PEFT refuses to load for training
    theirs = peft.PeftModel.from_pretrained(base_model(case), folder, is_trainable=not inputs_only).eval()
    return theirs.requires_grad_(True) if inputs_only else theirs


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("name", METHODS)
def test_logits_are_those_of_peft(name, case, tmp_path):
    model, method = tuned(name, case)
    theirs = in_peft(model, method, case, tmp_path)
    base = logits(base_model(case), case)
    mine, reference = logits(model, case), logits(theirs, case)
    exact = logits(theirs.double(), case)
    assert (mine - base).abs().max() > 0.1, "an adapter that changes nothing would prove nothing"
    rounding = (reference - exact).abs().max().item()
    close(mine, reference, 1e-6 + rounding)  # in float32 no two orders of summing agree better than either with the truth
    again = base_model(case)
    peft_format.load(again, tmp_path)
    close(logits(again.eval().double(), case), exact, 1e-11)


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("name", sorted(set(METHODS) - MADE_BY_A_NETWORK))
def test_gradients_are_those_of_peft(name, case, tmp_path):
    model, method = tuned(name, case)
    theirs = in_peft(model, method, case, tmp_path)
    model.double()
    theirs.double()
    theirs(**batch(case[1])).loss.backward()
    model(**batch(case[1])).loss.backward()
    assert isinstance(method, PeftFormat)
    mine = method.to_peft(model, {n: p.grad for n, p in trainable(model).items() if p.grad is not None}).tensors
    reference = {_saved_name(n): p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    fixed = {_saved_name(n) for n, _ in theirs.named_buffers(remove_duplicate=False)}  # saved, and never learnt
    compared = 0
    for key, gradient in ((key, gradient) for key, gradient in mine.items() if key not in fixed):
        known = reference[key]
        learnt = gradient != 1  # a multiplier that is fixed at one has no gradient here
        close(gradient[learnt], known[learnt].to(gradient.dtype), 1e-6)
        compared += int(learnt.sum())
    assert compared


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("name", METHODS)
def test_what_peft_saves_is_loaded(name, case, tmp_path):
    torch.manual_seed(0)
    extra = {"fan_in_fan_out": True} if case[0] == "gpt2" and name in ("lora", "dora", "ia3", "vera") else {}
    config = PEFT_CONFIGS[name](task_type=KINDS[case[1]], **extra)
    theirs = peft.get_peft_model(base_model(case), config).eval()
    shake(theirs)
    theirs.save_pretrained(tmp_path)
    theirs = peft.PeftModel.from_pretrained(base_model(case), tmp_path).eval()
    model = base_model(case)
    method = peft_format.load(model, tmp_path)
    assert method.name == name
    close(logits(model.eval().double(), case), logits(theirs.double(), case), 1e-11)


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("name", METHODS)
def test_a_round_trip_keeps_every_bit(name, case, tmp_path):
    model, method = tuned(name, case)
    adapter.save(model, method, tmp_path / "adapter", base_model="b")
    again = base_model(case)
    adapter.load(again, tmp_path / "adapter")
    assert torch.equal(logits(again.eval(), case), logits(model, case))


def test_what_peft_cannot_hold_is_kept_in_our_own_format(tmp_path):
    """With two layers of T5 PEFT would give both the same prefix."""
    method = PrefixTuning(num_tokens=3)
    model = tiny_models.build("t5", "seq2seq")
    method.attach(model)
    with pytest.raises(NotInPeftFormat, match="same prefix"):
        peft_format.write(model, method, tmp_path / "peft", base_model="b")
    adapter.save(model, method, tmp_path / "own", base_model="b")
    again = tiny_models.build("t5", "seq2seq")
    assert adapter.load(again, tmp_path / "own") == method
    assert torch.equal(logits(again, ("t5", "seq2seq")), logits(model, ("t5", "seq2seq")))


def _saved_name(name: str) -> str:
    """A parameter's name in PEFT's file."""
    if name.startswith("prompt_encoder."):
        return "prompt_embeddings"
    return name.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector")
