"""Positions that exist in no input text: learnt vectors before the input, or learnt keys and values before every layer's.

`prepend` gives a model vectors that stand before the words' embeddings. In a decoder they see nothing but each other, so a
packed stream has them once, for all rows, and so has a step of many passes (`beginning`); in an encoder, where they see
the words, every row has its own. `give_keys` gives keys and values. Either way
positions count from the virtual tokens on, and the model answers for the words only.

The virtual tokens are a module with the name `virtual_tokens` in the part of the model that reads or writes; it is called
once per forward pass, or inside `made_once` once for all passes.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.kernels.segments import Segments
from tunesmith.model import anatomy, beginning, extra_keys, packed, surgery
from tunesmith.model.beginning import Beginning
from tunesmith.model.extra_keys import ExtraKeys
from tunesmith.model.once_a_step import Made

NAME = "virtual_tokens"
Inputs = dict[str, Any]
"""The named inputs of a forward pass of transformers."""


class VirtualTokens(nn.Module):
    """Makes the virtual tokens when it is called."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens


class VirtualKeys(VirtualTokens):
    """Makes keys and values `(2, key heads, virtual tokens, width)` for each of some attention layers."""

    def __init__(self, num_tokens: int, paths: list[str]) -> None:
        super().__init__(num_tokens)
        self.paths = paths
        """Of the layers, in the part of the model that answers."""


def prepend(model: PreTrainedModel, tokens: VirtualTokens) -> None:
    """Put `tokens()`, `(virtual tokens, width of the embeddings)`, before every input that the model reads."""
    path = anatomy.path_of(model, anatomy.reader(model))
    surgery.add(model, path_before_words(model), tokens)
    surgery.hook(model, path, before=_prepend, after=None if anatomy.is_encoder_decoder(model.config) else _cut)
    if anatomy.is_encoder_decoder(model.config):
        surgery.hook(model, anatomy.path_of(model, anatomy.writer(model)), before=_see_all_of_source)


def give_keys(model: PreTrainedModel, tokens: VirtualKeys) -> None:
    """Let the layers of the part that answers see `tokens()` first, keys and values of each layer."""
    path = anatomy.path_of(model, anatomy.writer(model))
    surgery.see_extra_keys(model, path)
    surgery.add(model, path_before_keys(model), tokens)
    surgery.hook(model, path, before=_give)
    if (places := anatomy.own_positions(model.get_submodule(path))) is not None:
        surgery.hook(model, anatomy.path_of(model, places), before=functools.partial(_shift, tokens.num_tokens))


@contextlib.contextmanager
def made_once(model: nn.Module, words: Tensor | None = None) -> Iterator[None]:
    """Call what makes the virtual tokens once for all passes within; their gradients reach it at the end, all at once.

    Where virtual tokens stand before a decoder's words, `words`, `(words,)` token ids that all rows of these passes begin
    with and that were left out of them, go with them.
    """
    tokens = next((module for module in model.modules() if isinstance(module, VirtualTokens)), None)
    if tokens is None:
        yield
        return
    made, begun = Made(tokens), Beginning(tokens, None if isinstance(tokens, VirtualKeys) else words)
    _made[tokens], _begun[tokens] = made, begun
    try:
        yield
    finally:
        begun.end()
        del _made[tokens], _begun[tokens]
    made.backward()
    begun.backward()


def leave_out_words(model: nn.Module) -> bool:
    """Whether the words that all rows begin with go with virtual tokens, so that passes need not have them."""
    return any(begun.num_words and tokens in set(model.modules()) for tokens, begun in _begun.items())


_made: WeakKeyDictionary[nn.Module, Made] = WeakKeyDictionary()
_begun: WeakKeyDictionary[nn.Module, Beginning] = WeakKeyDictionary()


def _make(tokens: VirtualTokens) -> Any:
    """The virtual tokens, or those of all passes."""
    return _made[tokens].copies() if tokens in _made and torch.is_grad_enabled() else tokens()


def _is_seen(part: PreTrainedModel) -> bool:
    """Whether the layers see the virtual tokens before the words in all passes alike; they must if words were left out."""
    begun = _begun.get(find(part)[1])
    is_seen = begun is not None and packed.rows() is not None and begun.is_seen(part)
    if begun is not None and begun.num_words and not is_seen:
        raise ValueError("the layers do not show every word what its row begins with")
    return is_seen


def find(model: nn.Module) -> tuple[str, VirtualTokens]:
    """The module that makes the model's virtual tokens, and its path."""
    return next((path, module) for path, module in model.named_modules() if isinstance(module, VirtualTokens))


def count(model: nn.Module) -> int:
    """How many virtual tokens stand before every input of the model."""
    return sum(module.num_tokens for module in model.modules() if isinstance(module, VirtualTokens))


def path_before_words(model: PreTrainedModel) -> str:
    """The path that virtual tokens before the words will have."""
    return _child(anatomy.path_of(model, anatomy.reader(model)))


def path_before_keys(model: PreTrainedModel) -> str:
    """The path that virtual keys and values will have."""
    return _child(anatomy.path_of(model, anatomy.writer(model)))


@torch.no_grad()
def embeddings_of_random_words(model: PreTrainedModel, count: int) -> Tensor:
    """What the model makes of random token ids at its input, `(count, width of the embeddings)` float32."""
    embed = model.get_input_embeddings()
    vocabulary, device = anatomy.stored_weight(embed).shape[0], anatomy.device_of(model)
    return embed(torch.randint(vocabulary, (count,), device=device)).float()


@torch.no_grad()
def keys_of_random_words(model: PreTrainedModel, count: int) -> dict[str, Tensor]:
    """Keys and values `(2, key heads, count, width)` float32 of random words, by path of the layer in the part that answers."""
    part, training = anatomy.writer(model), model.training
    vocabulary = anatomy.stored_weight(model.get_input_embeddings()).shape[0]
    ids = torch.randint(vocabulary, (1, count), device=anatomy.device_of(model))
    words = model.get_input_embeddings()(ids)
    with surgery.without_pooler(model), extra_keys.recording(part.config) as layers:  # pyright: ignore
        part.eval()
        part(inputs_embeds=words)
        part.train(training)
    return {anatomy.path_of(part, one.layer): torch.cat([one.keys, one.values]).float() for one in layers}


def _prepend(part: PreTrainedModel, args: tuple, inputs: Inputs) -> tuple[tuple, Inputs]:
    if beginning.is_being_made():
        return args, inputs
    inputs, tokens = _by_name(part, args, inputs), find(part)[1]
    if _is_seen(part):
        inputs["position_ids"] = inputs["position_ids"] + tokens.num_tokens + _begun[tokens].num_words
        return (), inputs
    vectors = _make(tokens)
    count, mask = len(vectors), inputs.get("attention_mask")
    order = _order(part, mask, count)
    if mask is not None:
        inputs["attention_mask"] = _ordered(nn.functional.pad(mask, (count, 0), value=1), order)
    if inputs.get("position_ids") is not None:
        inputs["position_ids"] = inputs["position_ids"] + count
    if _past(inputs):
        return (), inputs
    words, embeddings, places = inputs.pop("input_ids", None), inputs.get("inputs_embeds"), _places(part, count)
    if embeddings is None:
        embeddings = part.get_input_embeddings()(words)
    inputs["inputs_embeds"] = _ordered(_before_each(embeddings, vectors.to(embeddings.dtype), places), order)
    first = {"position_ids": torch.arange(count, device=embeddings.device) + anatomy.first_position(part.config)}
    first["token_type_ids"] = torch.zeros_like(first["position_ids"])
    for name in (name for name in first if inputs.get(name) is not None):
        given = inputs[name].expand(len(embeddings), -1)
        inputs[name] = _ordered(_before_each(given, first[name], places), order)
    return (), inputs


def _order(part: PreTrainedModel, mask: Tensor | None, count: int) -> Tensor | None:
    """Where every position of padded rows comes from, `(rows, count + words)`: virtual tokens stand behind padding on the left.

    A window counts positions, so padding between virtual tokens and words would push them apart. None without such padding.
    """
    reads = anatomy.is_encoder(part.config) or anatomy.is_encoder_decoder(part.config)
    if reads or mask is None or mask.ndim != 2 or bool(mask[:, 0].all()):
        return None
    padding = (mask.cumsum(1) == 0).sum(1, keepdim=True)
    places = torch.arange(count + mask.shape[1], device=mask.device)[None]
    behind = torch.where(places < padding + count, places - padding, places)
    return torch.where(places < padding, places + count, behind)


def _ordered(t: Tensor, order: Tensor | None) -> Tensor:
    """`(rows, count + words, ...)` in the order of `_order`."""
    return t if order is None else t[torch.arange(len(t), device=t.device)[:, None], order]


def _places(part: PreTrainedModel, count: int) -> list[int] | None:
    """The lengths of the rows in a packed stream that each get virtual tokens of their own; tells attention who sees whom."""
    rows = packed.rows()
    if rows is None:
        return None
    if not anatomy.is_encoder(part.config):
        packed.see(rows.sharing(num_ahead=count))
        return None
    packed.see(Segments([length + count for length in rows.lengths], rows.device))
    return rows.lengths


def _before_each(t: Tensor, first: Tensor, lengths: list[int] | None) -> Tensor:
    """`first` `(count, ...)` before every row of `t` `(rows, tokens, ...)`, or of a stream with rows of these lengths."""
    if lengths is None:
        return torch.cat([first.expand(len(t), *first.shape), t], 1)
    return torch.cat([piece for row in t[0].split(lengths) for piece in (first, row)])[None]


def _cut(part: PreTrainedModel, _args: tuple, inputs: Inputs, output: Any) -> Any:
    """Take the virtual tokens out of the answer.

    Where the first state stands for a whole row, it is that of the first virtual token, which takes the first word's place.
    """
    embeddings = inputs.get("inputs_embeds")
    if embeddings is None or _past(inputs) > embeddings.shape[1] or beginning.is_being_made():
        return output
    states, count = output.last_hidden_state, find(part)[1].num_tokens
    kept = 1 if anatomy.pooling(part) == "first" else 0
    rows = packed.rows() if anatomy.is_encoder(part.config) else None
    if rows is None:
        order = _order(part, inputs.get("attention_mask"), count)
        states = states if order is None else _ordered(states, order[:, : states.shape[1]].argsort(1))
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
    tokens, past, bias = find(part)[1], _past(inputs), None
    assert isinstance(tokens, VirtualKeys)
    assert isinstance(words, Tensor)
    count = tokens.num_tokens
    for path, pair in zip(tokens.paths, _make(tokens), strict=True):
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


def _shift(count: int, embedding: nn.Module, args: tuple, inputs: Inputs) -> tuple[tuple, Inputs]:
    """Positions from the virtual tokens on, for a part that counts them itself."""
    inputs = _by_name(embedding, args, inputs)
    return (), {**inputs, "position_ids": inputs["position_ids"] + count}


def _by_name(part: nn.Module, args: tuple, inputs: Inputs) -> Inputs:
    """All inputs by name, also those given by place."""
    return {**dict(zip(inspect.signature(part.forward).parameters, args, strict=False)), **inputs}


def _past(inputs: Inputs) -> int:
    """How many tokens the cache holds that the call goes on from."""
    cache = inputs.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


def _child(path: str) -> str:
    return f"{path}.{NAME}" if path else NAME
