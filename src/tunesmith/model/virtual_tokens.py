"""Positions that exist in no input text: learnt vectors before the input, or learnt keys and values before every layer's.

`prepend` gives a model vectors that stand before the words' embeddings. In a decoder they see nothing but each other, so a packed
stream has them once, for all rows; in an encoder, where they see the words, every row has its own. `give_keys` gives
keys and values. Either way positions count from the virtual tokens on, and the model answers for the words only.

The virtual tokens are a module with the name `virtual_tokens` in the part of the model that reads or writes; it is called
once per forward pass.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.kernels.segments import Segments
from tunesmith.model import anatomy, extra_keys, packed, surgery
from tunesmith.model.extra_keys import ExtraKeys

NAME = "virtual_tokens"
Inputs = dict[str, Any]
"""The named inputs of a forward pass of transformers."""


def prepend(model: PreTrainedModel, tokens: nn.Module) -> None:
    """Put `tokens()`, `(virtual tokens, width of the embeddings)`, before every input that the model reads."""
    path = anatomy.path_of(model, anatomy.reader(model))
    surgery.add(model, _child(path), tokens)
    surgery.hook(model, path, before=_prepend, after=None if anatomy.is_encoder_decoder(model.config) else _cut)
    if anatomy.is_encoder_decoder(model.config):
        surgery.hook(model, anatomy.path_of(model, anatomy.writer(model)), before=_see_all_of_source)


def give_keys(model: PreTrainedModel, tokens: nn.Module) -> None:
    """Let the layers of the part that answers see `tokens()` first: keys and values `(2, key heads, virtual tokens, width)` of each."""
    path = anatomy.path_of(model, anatomy.writer(model))
    surgery.see_extra_keys(model, path)
    surgery.add(model, _child(path), tokens)
    surgery.hook(model, path, before=_give)
    if (places := anatomy.own_positions(model.get_submodule(path))) is not None:
        surgery.hook(model, anatomy.path_of(model, places), before=_shift_own_positions)


def tokens_of(model: PreTrainedModel) -> nn.Module:
    """The module that makes the virtual tokens."""
    return next(module for path, module in model.named_modules() if path.rpartition(".")[2] == NAME)


def path_in(model: PreTrainedModel) -> str:
    """The path of the module that makes the virtual tokens."""
    return anatomy.path_of(model, tokens_of(model))


@torch.no_grad()
def embeddings_of_random_words(model: PreTrainedModel, count: int) -> Tensor:
    """What the model makes of random token ids at its input, `(count, width of the embeddings)` float32."""
    embed = model.get_input_embeddings()
    vocabulary, device = anatomy.stored_weight(embed).shape[0], anatomy.device_of(model)
    return embed(torch.randint(vocabulary, (count,), device=device)).float()


@torch.no_grad()
def keys_of_random_words(model: PreTrainedModel, count: int) -> list[Tensor]:
    """Keys and values of random token ids in every layer of the part that answers, each `(2, key heads, count, width)` float32."""
    part, training = anatomy.writer(model), model.training
    vocabulary = anatomy.stored_weight(model.get_input_embeddings()).shape[0]
    ids = torch.randint(vocabulary, (1, count), device=anatomy.device_of(model))
    with extra_keys.recording(part.config) as layers:  # pyright: ignore
        part.eval()
        part(input_ids=ids)
        part.train(training)
    return [torch.cat([keys, values]).float() for _, keys, values in layers]


def _prepend(part: PreTrainedModel, args: tuple, inputs: Inputs) -> tuple[tuple, Inputs]:
    inputs = _by_name(part, args, inputs)
    vectors = part.get_submodule(NAME)()
    count = len(vectors)
    mask = inputs.get("attention_mask")
    if mask is not None:
        inputs["attention_mask"] = nn.functional.pad(mask, (count, 0), value=1)
    if _past(inputs):
        if inputs.get("position_ids") is not None:
            inputs["position_ids"] = inputs["position_ids"] + count
        return (), inputs
    words = inputs.pop("input_ids", None)
    embeddings = inputs.get("inputs_embeds")
    if embeddings is None:
        embeddings = part.get_input_embeddings()(words)
    places = _places(part, count)
    inputs["inputs_embeds"] = _before_each(embeddings, vectors.to(embeddings.dtype), places)
    if inputs.get("position_ids") is not None:
        positions = torch.arange(count, device=embeddings.device) + anatomy.first_position(part.config)
        inputs["position_ids"] = _before_each(inputs["position_ids"] + count, positions, places)
    if inputs.get("token_type_ids") is not None:
        types = inputs["token_type_ids"]
        inputs["token_type_ids"] = _before_each(types, types.new_zeros(count), places)
    return (), inputs


def _places(part: PreTrainedModel, count: int) -> list[int] | None:
    """The lengths of the rows in a packed stream that each get virtual tokens of their own; tells attention who sees whom."""
    rows = packed.rows()
    if rows is None:
        return None
    if not anatomy.is_encoder(part.config):
        packed.see(rows.sharing(count, in_stream=True))
        return None
    packed.see(Segments([length + count for length in rows.lengths], rows.device))
    return rows.lengths


def _before_each(t: Tensor, first: Tensor, lengths: list[int] | None) -> Tensor:
    """`first` `(count, ...)` before every row of `t` `(rows, tokens, ...)`, or of a stream `(1, tokens, ...)` with such rows."""
    if lengths is None:
        return torch.cat([first.expand(len(t), *first.shape), t], 1)
    return torch.cat([piece for row in t[0].split(lengths) for piece in (first, row)])[None]


def _cut(part: PreTrainedModel, _args: tuple, inputs: Inputs, output: Any) -> Any:
    """Take the virtual tokens out of the answer.

    Where the first state stands for a whole row, it is that of the first virtual token, which takes the first word's place.
    """
    embeddings = inputs.get("inputs_embeds")
    if embeddings is None or _past(inputs) > embeddings.shape[1]:
        return output
    states, count = output.last_hidden_state, len(part.get_submodule(NAME)())
    kept = 1 if anatomy.pooling(part) == "first" else 0
    rows = packed.rows() if anatomy.is_encoder(part.config) else None
    if rows is None:
        output.last_hidden_state = torch.cat([states[:, :kept], states[:, count + kept :]], 1) if kept else states[:, count:]
    else:
        pieces = states[0].split([length + count for length in rows.lengths])
        output.last_hidden_state = torch.cat([t for row in pieces for t in (row[:kept], row[count + kept :])])[None]
    return output


def _see_all_of_source(part: PreTrainedModel, args: tuple, inputs: Inputs) -> tuple[tuple, Inputs]:
    """Let a decoder attend to the virtual tokens of its source too."""
    inputs = _by_name(part, args, inputs)
    mask, states = inputs.get("encoder_attention_mask"), inputs.get("encoder_hidden_states")
    if mask is not None and states is not None:
        inputs["encoder_attention_mask"] = nn.functional.pad(mask, (states.shape[1] - mask.shape[1], 0), value=1)
    return (), inputs


def _give(part: PreTrainedModel, args: tuple, inputs: Inputs) -> tuple[tuple, Inputs]:
    inputs = _by_name(part, args, inputs)
    words = inputs.get("input_ids") if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
    tokens, past = part.get_submodule(NAME), _past(inputs)
    bias, count = None, tokens.num_tokens
    for path, pair in zip(tokens.paths, tokens(), strict=True):
        layer = part.get_submodule(path)
        own_bias = anatomy.distance_bias(layer, words.shape[1], count, past + count)
        bias = bias if own_bias is None else own_bias  # layers without one use that of a layer before
        extra_keys.give(layer, ExtraKeys(pair[0], pair[1], bias))
    if "position_ids" in inspect.signature(part.forward).parameters:
        positions = inputs.get("position_ids")
        if positions is None:
            first = past + anatomy.first_position(part.config)
            positions = torch.arange(first, first + words.shape[1], device=words.device)[None]
        inputs["position_ids"] = positions + count
    return (), inputs


def _shift_own_positions(embedding: nn.Module, args: tuple, inputs: Inputs) -> tuple[tuple, Inputs]:
    """For a part that counts its positions itself."""
    inputs = _by_name(embedding, args, inputs)
    raise NotImplementedError


def _by_name(part: nn.Module, args: tuple, inputs: Inputs) -> Inputs:
    """All inputs by name, also those given by place."""
    return {**dict(zip(inspect.signature(part.forward).parameters, args, strict=False)), **inputs}


def _past(inputs: Inputs) -> int:
    """How many tokens the cache holds that the call goes on from."""
    cache = inputs.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


def _child(path: str) -> str:
    return f"{path}.{NAME}" if path else NAME
