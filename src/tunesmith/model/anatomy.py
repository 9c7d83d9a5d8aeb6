"""What a model is made of, in the same words for every model family: read only, and the only place that probes attributes."""

import fnmatch
import inspect
import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import NoSuchTarget
from tunesmith.kernels.linear_cross_entropy import Head
from tunesmith.model.quantized_linear import QuantizedLinear

ALL_LINEAR = "all-linear"


def is_linear(module: nn.Module) -> bool:
    """Whether the module multiplies by one weight matrix."""
    return isinstance(module, nn.Linear | Conv1D | QuantizedLinear)


def linear_sizes(module: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear module, whichever way its weight is stored."""
    if isinstance(module, QuantizedLinear):
        return module.sizes
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def linear_weight(module: nn.Module) -> Tensor:
    """The weight as (outputs, inputs), a view on the module's own; of a quantised layer, a dequantised copy."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.t() if isinstance(module, Conv1D) else weight


def stored_weight(module: nn.Module) -> Tensor:
    """The weight of a linear module as it is stored, and in its data type."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def is_tied(model: nn.Module, module: nn.Module) -> bool:
    """Whether the model uses the module's weight at another place too, as embeddings do."""
    if isinstance(module, QuantizedLinear):
        return False
    same = [p for _, p in model.named_parameters(remove_duplicate=False) if p is module.weight]
    return len(same) > 1


def stores_inputs_first(module: nn.Module) -> bool:
    """Whether the weight is stored as (inputs, outputs), as in GPT-2."""
    return isinstance(module, Conv1D) or (isinstance(module, QuantizedLinear) and module.inputs_first)


def linear_targets(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Paths of the linear layers that a method adapts.

    `targets` are patterns for the last part of a layer's name, or for the whole path if they contain a dot, or
    `all-linear`: every linear layer except heads (the output embeddings, a classification head) and the pooler,
    which belong to the task. A classification head, which learns as a whole, is never a target.

    Raises:
        NoSuchTarget: If a pattern matches nothing; the message lists what the model has.
    """
    whole = {name.rpartition(".")[0] for name in new_head_parameters(model)}
    found = {n: m for n, m in model.named_modules() if is_linear(m) and n not in whole}
    heads = {id(m) for head in head_modules(model) for m in head.modules()}
    body = [n for n, m in found.items() if id(m) not in heads]
    if targets == (ALL_LINEAR,):
        return body
    leaves = sorted({n.rsplit(".", 1)[-1] for n in found})
    wanted: set[str] = set()
    for target in targets:
        matches = fnmatch.filter(found if "." in target else leaves, target)
        wanted.update(matches)
        if not matches:
            raise NoSuchTarget(
                f"Target {target!r} matches no linear layer. This model has: {', '.join(leaves)}; or use {ALL_LINEAR!r}."
            )
    return [n for n in found if n in wanted or n.rsplit(".", 1)[-1] in wanted]


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its task head: what turns tokens into hidden states."""
    return model.base_model


def head_modules(model: nn.Module) -> list[nn.Module]:
    """The modules between the hidden states and the answer: output embeddings or classification head, and a pooler."""
    if not isinstance(model, PreTrainedModel):
        return []
    body = backbone(model)
    outside = [m for name, m in model.named_children() if m is not body and body is not model]
    pooler = getattr(body, "pooler", None)
    output = model.get_output_embeddings()
    return [m for m in (*outside, pooler, output) if isinstance(m, nn.Module)]


def new_head_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of a classification head, which no pre-training has filled."""
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is not None:
        return []
    body = backbone(model)
    if body is model:
        return []
    inside = {id(p) for p in body.parameters()}
    return [n for n, p in model.named_parameters() if id(p) not in inside]


def language_head(model: PreTrainedModel) -> Head | None:
    """How the model turns a hidden state into logits, if by a plain linear map with the known scalings, else None."""
    module = model.get_output_embeddings()
    if not isinstance(module, nn.Linear):
        return None
    config = model.config.get_text_config()
    divisor = getattr(config, "logits_scaling", None)
    scale = getattr(config, "logit_scale", None) or (1 / divisor if divisor else 1.0)
    return Head(module.weight, module.bias, float(scale), getattr(config, "final_logit_softcapping", None))


def maximum_length(model_config: PretrainedConfig) -> int | None:
    """Longest input in tokens that the model was built for, None if it says nothing."""
    text = model_config.get_text_config()
    value = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if value and getattr(text, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
        value -= (getattr(text, "pad_token_id", None) or 0) + 1  # these count positions from padding_idx + 1
    return int(value) if value else None


def is_encoder_decoder(model_config: object) -> bool:
    """Whether the model reads a source with one stack and writes with another."""
    return bool(getattr(model_config, "is_encoder_decoder", False))


def first_position(model_config: object) -> int:
    """The position number of a row's first token: 0, but RoBERTa's relatives begin after the padding index."""
    counted_on = ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xlm-roberta-xl")
    if getattr(model_config, "model_type", "") in counted_on:
        return (getattr(model_config, "pad_token_id", None) or 0) + 1
    return 0


def has_token_types(model: PreTrainedModel) -> bool:
    """Whether the embeddings tell the two texts of a pair apart by token types."""
    return (getattr(model.config, "type_vocab_size", 0) or 0) > 0


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(all, trainable) numbers, tied tensors counted once."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    quantized = sum(math.prod(module.sizes) for module in model.modules() if isinstance(module, QuantizedLinear))
    return quantized + sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives, or its first buffer if it has no parameters."""
    return next(itertools.chain(model.parameters(), model.buffers())).device


def dtype_of(module: nn.Module) -> torch.dtype:
    """The number format of the first parameter; float32 if there is none, as in a quantised layer."""
    return next((parameter.dtype for parameter in module.parameters()), torch.float32)


def is_encoder(model_config: object) -> bool:
    """Whether the model is an encoder: it sees a whole row at once and keeps no cache."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    kind = getattr(model_config, "model_type", "")
    if is_encoder_decoder(model_config):
        return False
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return (masked or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) and not getattr(model_config, "is_decoder", False)


def pooler(model: PreTrainedModel) -> nn.Module | None:
    """The backbone's own module from the first token's state to a pooled one, if it has one."""
    module = getattr(backbone(model), "pooler", None)
    return module if isinstance(module, nn.Module) else None


def pooling(model: PreTrainedModel) -> Literal["first", "last", "mean"]:
    """Which token's state stands for a row when it is classified."""
    if not is_encoder(model.config):
        return "last"
    return "mean" if getattr(model.config, "classifier_pooling", "cls") == "mean" else "first"


def head_dtype(model: PreTrainedModel) -> torch.dtype:
    """Data type of the classification head."""
    body = backbone(model)  # not by `new_head_parameters`, which looks at every parameter: every pass asks
    outside = (module for module in model.children() if module is not body)
    return next((parameter.dtype for module in outside for parameter in module.parameters()), model.dtype)


def reader(model: PreTrainedModel) -> nn.Module:
    """The part that turns an input into hidden states: the encoder of an encoder-decoder, else the backbone."""
    return model.get_encoder() if is_encoder_decoder(model.config) else backbone(model)


def embedding_scale(module: nn.Module) -> float:
    """What an embedding multiplies its rows by."""
    return float(getattr(module, "embed_scale", None) or 1.0)


def norm_parts(module: nn.Module) -> tuple[nn.Parameter, float] | None:
    """Weight and epsilon of what looks like a root-mean-square norm: one vector of weights, an epsilon, nothing else."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    only_weight = [name for name, _ in module.named_parameters()] == ["weight"] and not list(module.children())
    if not (only_weight and isinstance(weight, nn.Parameter) and weight.ndim == 1 and isinstance(epsilon, float)):
        return None
    return weight, epsilon


def gated_parts(module: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module] | None:
    """Gate, up and down projection of what looks like a gated feed-forward layer."""
    parts = tuple(getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj"))
    if not all(isinstance(part, nn.Module) and is_linear(part) for part in parts):
        return None
    known = {id(part) for part in parts}
    if any(id(child) not in known and next(child.parameters(), None) is not None for child in module.children()):
        return None
    return parts  # pyright: ignore[reportReturnType]


def input_width(module: nn.Module) -> int:
    """Size of the last axis that a norm or a gated feed-forward layer takes; an activation takes any."""
    gated = gated_parts(module)
    if gated is not None:
        return linear_sizes(gated[0])[0]
    weight = getattr(module, "weight", None)
    return weight.shape[0] if isinstance(weight, Tensor) else 1


def attention_sizes(model_config: PretrainedConfig) -> tuple[int, int, int]:
    """(heads of queries, heads of keys and values, width of a head)."""
    text = model_config.get_text_config()
    heads = int(getattr(text, "num_attention_heads", 0))
    width = getattr(text, "head_dim", None) or getattr(text, "hidden_size", 0) // max(heads, 1)
    return heads, int(getattr(text, "num_key_value_heads", None) or heads), int(width)


def writer(model: PreTrainedModel) -> nn.Module:
    """The part that writes, or answers: the decoder of an encoder-decoder, else the backbone."""
    return model.get_decoder() if is_encoder_decoder(model.config) else backbone(model)


def path_of(model: nn.Module, part: nn.Module) -> str:
    """The path of a module in the model; "" is the model."""
    return next(path for path, module in model.named_modules() if module is part)


def distance_bias(layer: nn.Module, num_queries: int, num_keys: int, first_query: int) -> Tensor | None:
    """What an attention layer adds to scores by distance alone, `(1, heads, queries, keys)`; keys begin at position 0."""
    if getattr(layer, "relative_attention_bias", None) is None:
        return None
    return layer.compute_bias(num_queries, num_keys, past_seen_tokens=first_query)  # pyright: ignore


def own_positions(part: nn.Module) -> nn.Module | None:
    """The embedding of positions of a decoder that counts them itself and takes none from its caller."""
    takes_them = "position_ids" in inspect.signature(part.forward).parameters
    return None if takes_them else getattr(part, "embed_positions", None)


def has_window(model_config: PretrainedConfig) -> bool:
    """Whether the tokens of some layer see those near to them only, or those of their own piece of the row."""
    text = model_config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        return bool(getattr(text, "sliding_window", None) or getattr(text, "attention_chunk_size", None))
    return any("sliding" in kind or "chunked" in kind for kind in kinds)


def num_layers(model_config: PretrainedConfig) -> int:
    """How many layers the model has, of its decoder if it has two stacks."""
    own = getattr(model_config, "num_decoder_layers", None) or getattr(model_config, "decoder_layers", None)
    return int(own or model_config.get_text_config(decoder=True).num_hidden_layers)  # pyright: ignore


def ends_layers_with_final_norm(model: nn.Module) -> bool:
    """Whether what the model calls `final_layer_norm` is the end of a layer; in most families it stands within one."""
    config = getattr(model, "config", None)
    ends = getattr(config, "model_type", "") in ("bart", "plbart", "marian", "blenderbot-small")
    return ends or not getattr(config, "do_layer_norm_before", True)  # OPT has both
