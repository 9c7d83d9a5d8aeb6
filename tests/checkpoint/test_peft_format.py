"""What is saved loads in the real `peft` with equal logits, and what `peft` saves loads here; hostile files are refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny_models
from tunesmith.checkpoint import peft_format
from tunesmith.errors import InputError, RunError
from tunesmith.methods.full import Full
from tunesmith.methods.lora import LoRA
from tunesmith.model import surgery

CASES = [("llama", "causal"), ("gpt2", "causal"), ("phi3", "causal"), ("llama", "classification")]
CASES += [(name, "classification") for name in tiny_models.ENCODERS] + [("t5", "seq2seq")]
METHODS = {
    "all": LoRA(rank=4, alpha=12.0),
    "rank-stabilized": LoRA(rank=8, alpha=5.5, scaling="rank-stabilized", dropout=0.25),
}


def _logits(model: nn.Module) -> Tensor:
    ids = torch.arange(8, 40).view(2, 16)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids[:, :5]
    with torch.no_grad():
        return model(**inputs).logits


def _same_logits(ours: nn.Module, theirs: nn.Module) -> None:
    """Equal to 1e-5 of the largest in float32, and to 1e-9 in float64, where rounding hides nothing."""
    expected = _logits(theirs)
    assert (_logits(ours) - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(_logits(ours.double()), _logits(theirs.double()), rtol=1e-9, atol=1e-9)


def _shake(model: nn.Module, seed: int = 3) -> None:
    """Stand in for training: move everything that learns."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def _tuned(name: str, task: tiny_models.Task, method: LoRA) -> nn.Module:
    model = tiny_models.build(name, task)
    torch.manual_seed(0)
    method.attach(model)
    _shake(model)
    return model.eval()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(("name", "task"), CASES, ids=lambda value: value)
def test_peft_loads_what_is_saved(name: str, task: tiny_models.Task, method: LoRA, tmp_path: Path) -> None:
    model = _tuned(name, task, method)
    peft_format.write(model, method, tmp_path / "adapter", base_model="some/base")

    base = tiny_models.build(name, task)
    before = _logits(base)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()

    assert (_logits(model) - before).abs().max() > 0.1, "the adapter must change something, or this proves nothing"
    _same_logits(model, theirs)
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize(("name", "task"), CASES, ids=lambda value: value)
def test_what_peft_saves_is_loaded(name: str, task: tiny_models.Task, use_rslora: bool, tmp_path: Path) -> None:
    kind = {"causal": "CAUSAL_LM", "classification": "SEQ_CLS", "seq2seq": "SEQ_2_SEQ_LM"}[task]
    extra = {"modules_to_save": ["head", "pre_classifier"]} if name in ("modernbert", "distilbert") else {}
    config = peft.LoraConfig(
        r=4,
        lora_alpha=9,
        target_modules="all-linear",
        task_type=kind,
        use_rslora=use_rslora,
        fan_in_fan_out=name == "gpt2",
        **extra,
    )
    torch.manual_seed(0)
    theirs = peft.get_peft_model(tiny_models.build(name, task), config).eval()
    _shake(theirs)
    theirs.save_pretrained(tmp_path)

    model = tiny_models.build(name, task)
    method = peft_format.load(model, tmp_path)

    _same_logits(model, theirs)
    assert isinstance(method, LoRA)
    assert (method.rank, method.alpha, method.scaling == "rank-stabilized") == (4, 9, use_rslora)


@pytest.mark.parametrize(("name", "task"), CASES, ids=lambda value: value)
def test_round_trip_keeps_every_bit_and_the_method(name: str, task: tiny_models.Task, tmp_path: Path) -> None:
    method = LoRA(rank=3, alpha=7.5)
    model = _tuned(name, task, method)
    peft_format.write(model, method, tmp_path, base_model="b")
    again = tiny_models.build(name, task)

    assert peft_format.load(again, tmp_path) == method
    assert torch.equal(_logits(again), _logits(model))
    learning = {n for n, p in again.named_parameters() if p.requires_grad}
    assert learning == {n for n, p in model.named_parameters() if p.requires_grad}
    surgery.detach(again)


def test_some_layers_only(tmp_path: Path) -> None:
    """A peft adapter on one projection of one layer adapts exactly that one here."""
    config = peft.LoraConfig(r=2, target_modules=r"model\.layers\.1\.self_attn\.(q|v)_proj", task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(tiny_models.build("llama"), config).eval()
    _shake(theirs)
    theirs.save_pretrained(tmp_path)
    model = tiny_models.build("llama")
    method = peft_format.load(model, tmp_path)

    assert method == LoRA(rank=2, alpha=8.0, targets=tuple(f"model.layers.1.self_attn.{x}_proj" for x in "qv"))
    _same_logits(model, theirs)


def test_names_of_targets_are_short_where_they_select_the_same(tmp_path: Path) -> None:
    for name, task, expected in (("llama", "causal", 7), ("bert", "classification", 12)):
        method = LoRA(rank=2)
        peft_format.write(_tuned(name, task, method), method, tmp_path / name, base_model="b")  # pyright: ignore[reportArgumentType]
        targets = json.loads((tmp_path / name / "adapter_config.json").read_text())["target_modules"]
        assert len(targets) == expected
        assert targets == sorted(targets)


def test_output_embeddings_in_modules_to_save(tmp_path: Path) -> None:
    theirs = peft.get_peft_model(
        tiny_models.build("llama", tie_word_embeddings=False),
        peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
    ).eval()
    _shake(theirs)
    theirs.save_pretrained(tmp_path)
    model = tiny_models.build("llama", tie_word_embeddings=False)
    peft_format.load(model, tmp_path)
    _same_logits(model, theirs)
    assert model.lm_head.weight.requires_grad

    with pytest.raises(InputError, match="ties it to"):
        peft_format.load(tiny_models.build("llama", tie_word_embeddings=True), tmp_path)


def test_uniform_patterns_are_honoured(tmp_path: Path) -> None:
    model = _saved(tmp_path)
    _edit(tmp_path, rank_pattern={"q_proj": 4}, alpha_pattern={"q_proj": 12})
    again = tiny_models.build("llama")
    peft_format.load(again, tmp_path)
    assert torch.equal(_logits(again), _logits(model))


def _saved(folder: Path) -> nn.Module:
    method = METHODS["all"]
    model = _tuned("llama", "causal", method)
    peft_format.write(model, method, folder, base_model="b")
    return model


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


HOSTILE: list[tuple[dict[str, object], str]] = [
    ({"use_dora": True}, "magnitude"),
    ({"use_qalora": True}, "use_qalora"),
    ({"bias": "all"}, "bias"),
    ({"lora_bias": True}, "lora_bias"),
    ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ({"trainable_token_indices": [5]}, "trainable_token_indices"),
    ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
    ({"megatron_config": {"a": 1}}, "megatron_config"),
    ({"loftq_config": {"loftq_bits": 4}}, "loftq_config"),
    ({"a_key_of_the_future": 0.5}, "a_key_of_the_future"),
    ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
    ({"alpha_pattern": {"(a+)+$": 8}}, "alpha_pattern"),
    ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    ({"init_lora_weights": {"a": 1}}, "init_lora_weights"),
    ({"r": 10**6}, "4096"),
    ({"r": 0}, "4096"),
    ({"r": -4}, "4096"),
    ({"r": "4"}, "whole number"),
    ({"r": True}, "whole number"),
    ({"r": None}, "whole number"),
    ({"r": 8}, "does not belong"),
    ({"lora_alpha": float("nan")}, "alpha"),
    ({"lora_alpha": float("inf")}, "alpha"),
    ({"lora_alpha": [1]}, "alpha"),
    ({"lora_dropout": 1.5}, "dropout"),
    ({"peft_type": "LOHA"}, "LOHA"),
    ({"peft_type": None}, "peft_type"),
    ({"peft_type": ["LORA"]}, "peft_type"),
    ({"modules_to_save": "classifier"}, "modules_to_save"),
    ({"modules_to_save": [""]}, "modules_to_save"),
    ({"modules_to_save": ["q_proj"]}, "does not have"),
]


@pytest.mark.parametrize(("changes", "named"), HOSTILE, ids=lambda value: str(value)[:40])
def test_hostile_configurations_are_refused_by_name(changes: dict[str, object], named: str, tmp_path: Path) -> None:
    _saved(tmp_path)
    _edit(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        peft_format.load(tiny_models.build("llama"), tmp_path)
    assert named in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_mapping": {"base_model_class": "X", "parent_library": "evil_module_that_must_not_be_imported"}},
        {"megatron_core": "evil_module_that_must_not_be_imported"},
        {"base_model_name_or_path": "../../etc/passwd"},
        {"target_modules": "(a+)+$"},
        {"exclude_modules": "(a|a)*$"},
    ],
    ids=str,
)
def test_keys_that_other_readers_act_on_do_nothing(changes: dict[str, object], tmp_path: Path) -> None:
    model = _saved(tmp_path)
    _edit(tmp_path, **changes)
    again = tiny_models.build("llama")
    start = time.process_time()
    peft_format.load(again, tmp_path)
    assert time.process_time() - start < 1
    assert torch.equal(_logits(again), _logits(model))


@pytest.mark.parametrize("damage", ["missing", "extra", "foreign", "shape", "nan", "unprefixed"])
def test_tensors_that_do_not_fit_are_refused(damage: str, tmp_path: Path) -> None:
    _saved(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    changed = {
        "missing": {},
        "extra": {name: tensors[name], name.replace("up_proj", "sideways"): tensors[name].clone()},
        "foreign": {name: tensors[name], "base_model.model.model.embed_tokens.lora_embedding_A": tensors[name].clone()},
        "shape": {name: tensors[name][:, :-1].contiguous()},
        "nan": {name: tensors[name] * float("nan")},
        "unprefixed": {name.removeprefix("base_model.model."): tensors[name]},
    }[damage]
    tensors.pop(name)
    save_file({**tensors, **changed}, path)
    model = tiny_models.build("llama")
    with pytest.raises(InputError):
        peft_format.load(model, tmp_path)


def test_only_a_pickle_is_refused_with_the_safe_way(tmp_path: Path) -> None:
    _saved(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(InputError, match="can run any code"):
        peft_format.load(tiny_models.build("llama"), tmp_path)


def test_other_methods_and_parts_of_modules_are_told_apart(tmp_path: Path) -> None:
    model = tiny_models.build("bert", "classification")
    with pytest.raises(RunError, match="no format for the method 'full'"):
        peft_format.write(model, Full(), tmp_path / "a", base_model="b")
    LoRA(rank=2).attach(model)
    model.classifier.bias.requires_grad_(False)
    with pytest.raises(RunError, match=r"'classifier\.weight' is only a part"):
        peft_format.write(model, LoRA(rank=2), tmp_path / "a", base_model="b")
    assert not (tmp_path / "a").exists()
