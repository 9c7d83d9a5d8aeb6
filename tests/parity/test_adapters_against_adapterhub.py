"""The presets of bottleneck adapters compute what AdapterHub's `adapters` does: logits, loss and gradients.

The references were written by `benchmarks/parity/adapters_references.py` with that library, in float64.
"""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from source_tree import ROOT
from tunesmith import settings
from tunesmith.methods.adapter import Adapter
from tunesmith.model.bottleneck import AdaptedLinear, Bottleneck

REFERENCES = ROOT / "tests" / "parity" / "references"
WIDTHS = {"houlsby": 2, "pfeiffer": 4, "parallel-adapter": 2}
"""Reductions of the references: a tiny model has no room for those of the presets."""
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
TOLERANCE = 1e-10
"""Relative, in float64: sums of a few dozen terms in another order."""


def _base(name: str) -> nn.Module:
    if name == "bert":
        quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = BertConfig(**SIZES, **quiet, max_position_embeddings=16, num_labels=3, pad_token_id=0)
        return BertForSequenceClassification(config)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=16, pad_token_id=0))


def _bottlenecks(model: nn.Module) -> dict[str, Bottleneck]:
    """By `LAYER.SUBLAYER`, as in the references."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, Bottleneck):
            layer = re.search(r"\.(\d+)\.", path)
            assert layer is not None
            sublayer = "attention" if re.search(r"attention\.output|self_attn", path) else "feed-forward"
            found[f"{layer[1]}.{sublayer}"] = module
    return found


def _tuned(name: str, preset: str, reference: dict[str, Tensor]) -> nn.Module:
    """Our model with the preset's method, and with the weights of the reference."""
    model = _base(name).double().eval()
    base = {key.removeprefix("base."): tensor for key, tensor in reference.items() if key.startswith("base.")}
    assert base.keys() == {key for key, _ in model.named_parameters()}
    model.load_state_dict(base, strict=False)
    tree = dict(settings.load_preset(preset)["method"], reduction=WIDTHS[preset])
    settings.from_mapping(Adapter, {key: value for key, value in tree.items() if key != "name"}, preset).attach(model)
    model.double()
    with torch.no_grad():
        for place, module in _bottlenecks(model).items():
            for part in ("down", "down_bias", "up", "up_bias"):
                module.get_parameter(part).copy_(reference[f"adapter.{place}.{part}"])
    return model


def _close(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).abs().max() <= TOLERANCE * max(1.0, expected.abs().max().item())


CASES = [(name, preset) for name in ("bert", "llama") for preset in WIDTHS if (name, preset) != ("llama", "parallel-adapter")]


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_logits_loss_and_gradients(name, preset):
    reference = load_file(REFERENCES / f"{name}-{preset}.safetensors")
    model = _tuned(name, preset, reference)
    ids = reference["input_ids"]
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=reference["labels"])
    _close(output.logits, reference["logits"])
    _close(output.loss, reference["loss"])
    output.loss.backward()
    compared = 0
    for place, module in _bottlenecks(model).items():
        for part, parameter in module.named_parameters():
            expected = reference[f"gradient.{place}.{part}"]
            assert expected.abs().max() > 1e-6, "a gradient of zero would prove nothing"
            assert parameter.grad is not None
            _close(parameter.grad, expected)
            compared += 1
    assert compared == sum(key.startswith("gradient.") for key in reference)


def test_where_the_parallel_adapter_of_a_decoder_reads():
    """AdapterHub feeds it the residual stream; He et al. (2022) what the feed-forward block reads, which is behind the norm.

    With the norm's input for its output the peer's logits come out, so this is the only difference.
    """
    reference = load_file(REFERENCES / "llama-parallel-adapter.safetensors")
    model = _tuned("llama", "parallel-adapter", reference)
    ids = reference["input_ids"]
    assert (model(input_ids=ids).logits - reference["logits"]).abs().max() > 1e-3
    for layer in model.model.layers:
        passage = next(m for m in layer.modules() if isinstance(m, AdaptedLinear)).passage

        def give(_norm, inputs, passage=passage):
            passage.stream = inputs[0]

        layer.post_attention_layernorm.register_forward_pre_hook(give)
        passage.take = lambda passage=passage: passage.stream
    _close(model(input_ids=ids).logits, reference["logits"])
