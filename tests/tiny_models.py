"""Tiny random models of many architectures, for tests: no file, no network, a few milliseconds each.

The weights are drawn several times wider than the libraries' default, because a model that answers every input
alike lets wrong code pass.
"""

from __future__ import annotations

import copy
import functools
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

Task = Literal["causal", "classification", "seq2seq"]

DECODERS = ("llama", "qwen2", "qwen3", "gemma3", "mistral", "phi3", "olmo2", "gpt2", "gpt_neox")
ENCODERS = ("bert", "roberta", "distilbert", "modernbert", "electra")
ENCODER_DECODERS = ("t5", "bart")
ARCHITECTURES = (*DECODERS, *ENCODERS, *ENCODER_DECODERS)

VOCABULARY_SIZE = 272
"""Enough for every byte and the special tokens of `tiny_tokenizer.build`."""
MAX_POSITIONS = 128
SLIDING_WINDOW = 6
"""Short, so that rows of a few tokens already reach past it."""

_DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
}
_ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_POSITIONS,
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "llama": _DECODER,
    "qwen2": _DECODER,
    "qwen3": {**_DECODER, "head_dim": 8},
    "gemma3": {
        **_DECODER,
        "model_type": "gemma3_text",
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": SLIDING_WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma2": {**_DECODER, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": SLIDING_WINDOW},
    "mistral": {**_DECODER, "sliding_window": SLIDING_WINDOW},
    "phi3": {**_DECODER, "original_max_position_embeddings": MAX_POSITIONS},
    "olmo2": _DECODER,
    "smollm3": _DECODER,
    "seed_oss": {**_DECODER, "head_dim": 8},
    "qwen2_moe": {
        **_DECODER,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": SLIDING_WINDOW,
        "max_window_layers": 2,
    },
    "gpt2": {"n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": MAX_POSITIONS},
    "gpt_neox": {**_ENCODER, "use_parallel_residual": True},
    "bert": _ENCODER,
    "roberta": {**_ENCODER, "max_position_embeddings": MAX_POSITIONS + 2},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": MAX_POSITIONS},
    "modernbert": {
        **_ENCODER,
        "num_hidden_layers": 3,
        "global_attn_every_n_layers": 3,
        "local_attention": 2 * SLIDING_WINDOW,
        "cls_token_id": 4,
        "sep_token_id": 5,
    },
    "electra": {**_ENCODER, "embedding_size": 16},
    "albert": {**_ENCODER, "embedding_size": 16},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.0},
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": MAX_POSITIONS,
    },
}
_CLASSES = {
    "causal": AutoModelForCausalLM,
    "classification": AutoModelForSequenceClassification,
    "seq2seq": AutoModelForSeq2SeqLM,
}
_WIDTH_OF_INITIAL_WEIGHTS = {"bart": "init_std"}
_INITIAL_STANDARD_DEVIATION = 0.3
"""At a width of 32 this makes logits differ by about one between inputs."""


def build(name: str, task: Task = "causal", *, num_labels: int = 3, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A fresh random model in float32 and evaluation mode; the same arguments always give the same weights.

    Args:
        name: One of `ARCHITECTURES`, or another with settings above.
        task: The head on top.
        num_labels: Classes of a classification head.
        seed: Of the weights.
        changes: Fields of the configuration to set otherwise, e.g. `num_hidden_layers=1`.
    """
    return copy.deepcopy(_build(name, task, num_labels, seed, tuple(sorted(changes.items()))))


def configuration(name: str, **changes: Any) -> PretrainedConfig:
    """The configuration that `build` uses, e.g. for a model on the `meta` device."""
    settings: dict[str, Any] = {"vocab_size": VOCABULARY_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    settings |= _SETTINGS[name]
    settings[_WIDTH_OF_INITIAL_WEIGHTS.get(name, "initializer_range")] = _INITIAL_STANDARD_DEVIATION
    if name in ENCODER_DECODERS:
        settings["decoder_start_token_id"] = 0
    settings |= changes
    return AutoConfig.for_model(settings.pop("model_type", name), **settings)


def on_meta(name: str, task: Task = "causal", *, num_labels: int = 3, **changes: Any) -> PreTrainedModel:
    """The same model without weights."""
    extra = {"num_labels": num_labels} if task == "classification" else {}
    with torch.device("meta"):
        return _CLASSES[task].from_config(configuration(name, **extra, **changes), dtype=torch.float32).eval()


@functools.cache
def _build(name: str, task: Task, num_labels: int, seed: int, changes: tuple[tuple[str, Any], ...]) -> PreTrainedModel:
    extra = {"num_labels": num_labels} if task == "classification" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _CLASSES[task].from_config(configuration(name, **extra, **dict(changes)), dtype=torch.float32)
        _discriminate(model)
    return model.eval()


def _discriminate(model: PreTrainedModel) -> None:
    """Move biases and norms off zero and one, so that code that leaves them out is caught."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
