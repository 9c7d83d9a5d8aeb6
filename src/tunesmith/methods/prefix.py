"""Prefix tuning: learn keys and values that every attention layer sees before those of the input.

out = softmax(q [P_k ; k]t) [P_v ; v]      P_k, P_v of each layer: (key heads, num_tokens, width)

At the start they are the keys and values of random words. With `hidden` a network makes them while training:
P = V tanh(U E) with E: (num_tokens, hidden size), U: (hidden, hidden size), V: (all keys and values, hidden). It runs once
per step, not once per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith import settings
from tunesmith.errors import ModelError, SettingsError
from tunesmith.interchange import (
    PROMPT_IGNORED,
    PROMPT_PREFIX,
    NotInPeftFormat,
    PeftFormat,
    PeftParts,
    prompt_parts,
    prompt_vectors,
)
from tunesmith.method import Method
from tunesmith.model import anatomy, surgery, virtual_tokens


class Prefix(virtual_tokens.VirtualKeys):
    """Keys and values of every layer, free or from a network."""

    def __init__(self, start: Mapping[str, Tensor], width: int, hidden: int | None) -> None:
        super().__init__(next(iter(start.values())).shape[2], list(start))
        self.shapes = [pair.shape for pair in start.values()]
        if hidden is None:
            self.pairs = nn.ParameterList(pair.clone() for pair in start.values())
        else:
            outputs = sum(pair[:, :, 0].numel() for pair in start.values())
            self.embedding = nn.Parameter(torch.randn(self.num_tokens, width))
            self.network = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, outputs))

    def forward(self) -> list[Tensor]:
        """Of each layer `(2, key heads, num_tokens, width)`."""
        return self.split(self.network(self.embedding)) if hasattr(self, "network") else list(self.pairs)

    def split(self, flat: Tensor) -> list[Tensor]:
        """The same of `(num_tokens, all keys and values)`, layer after layer, keys before values."""
        pieces = flat.split([shape[0] * shape[1] * shape[3] for shape in self.shapes], 1)
        return [
            piece.view(len(flat), *shape[:2], shape[3]).permute(1, 2, 0, 3)
            for piece, shape in zip(pieces, self.shapes, strict=True)
        ]

    @staticmethod
    def flat(pairs: list[Tensor]) -> Tensor:
        """The way back of `split`."""
        return torch.cat([pair.permute(2, 0, 1, 3).flatten(1) for pair in pairs], 1)


@dataclass(frozen=True, kw_only=True)
class PrefixTuning(Method, PeftFormat):
    """Learnt keys and values before those of the input, in every layer."""

    name = "prefix"
    paper = "https://arxiv.org/abs/2101.00190"
    starts_as_identity = False
    mergeable = False
    learning_rate = 5e-3
    learning_rate_small = 2e-2
    peft_type = "PREFIX_TUNING"
    peft_prefix = PROMPT_PREFIX
    peft_keys = frozenset({"num_virtual_tokens", "token_dim", "num_transformer_submodules"})
    peft_ignored = PROMPT_IGNORED | {"encoder_hidden_size", "prefix_projection", "init_weights"}

    num_tokens: int = 20
    """How many keys and values each layer gets."""
    hidden: int | None = None
    """Inner width of a network that makes them while training. Default: none, they learn directly."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_tokens <= 4096:
            raise SettingsError(f"method.num_tokens must be between 1 and 4096, found {self.num_tokens}.")
        if self.hidden is not None and self.hidden < 1:
            raise SettingsError(f"method.hidden must be at least 1, found {self.hidden}.")

    @property
    def num_positions(self) -> int:
        return self.num_tokens

    def attach(self, model: nn.Module) -> None:
        assert isinstance(model, PreTrainedModel)
        start = virtual_tokens.keys_of_random_words(model, self.num_tokens)
        width = anatomy.stored_weight(model.get_input_embeddings()).shape[1]
        surgery.freeze(model)
        with anatomy.device_of(model):
            tokens = Prefix(start, width, self.hidden)
        virtual_tokens.give_keys(model, tokens)
        surgery.thaw(model, anatomy.new_head_parameters(model))

    @torch.no_grad()
    def to_peft(self, model: nn.Module, trained: Mapping[str, Tensor]) -> PeftParts:
        path, tokens = virtual_tokens.find(model)
        assert isinstance(tokens, Prefix)
        pairs = [trained[f"{path}.pairs.{i}"] for i in range(len(tokens.paths))] if self.hidden is None else tokens()
        places = _places_in_peft(model, len(pairs))
        saved = [torch.zeros_like(pair) for pair in pairs]
        for place, pair in zip(places, pairs, strict=True):
            saved[place] = pair
        if any(not torch.equal(saved[place], pair) for place, pair in zip(places, pairs, strict=True)):
            raise NotInPeftFormat("PEFT gives the same prefix to two layers of such an encoder-decoder; these differ.")
        _, key_heads, width = anatomy.attention_sizes(model.config)  # pyright: ignore
        parts = prompt_parts(model, Prefix.flat(saved), {n: t for n, t in trained.items() if not n.startswith(f"{path}.")})
        parts.config.update(token_dim=key_heads * width, num_attention_heads=key_heads)
        if anatomy.is_encoder_decoder(model.config):  # pyright: ignore
            parts.config["num_transformer_submodules"] = 2
        return parts

    @classmethod
    def from_peft(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], model: nn.Module
    ) -> tuple[PrefixTuning, dict[str, Tensor]]:
        assert isinstance(model, PreTrainedModel)
        flat = prompt_vectors(config, tensors)
        method = settings.from_mapping(cls, {"num_tokens": len(flat)}, "adapter_config.json")
        tokens = Prefix(virtual_tokens.keys_of_random_words(model, 1), 1, None)
        if (wanted := sum(pair[:, :, 0].numel() for pair in tokens.pairs)) != flat.shape[1]:
            raise ModelError(f"The adapter has {flat.shape[1]} keys and values for each token; this model takes {wanted}.")
        path, saved = virtual_tokens.path_before_keys(model), tokens.split(flat)
        places = _places_in_peft(model, len(saved))
        return method, {f"{path}.pairs.{i}": saved[place].contiguous() for i, place in enumerate(places)}


def _places_in_peft(model: nn.Module, num_layers: int) -> list[int]:
    """Which of the saved layers each layer takes.

    With an encoder-decoder PEFT lays two copies of all layers one after the other and takes every second, so that an even
    number of layers share their keys and values two by two.
    """
    step = 2 if anatomy.is_encoder_decoder(model.config) else 1  # pyright: ignore
    return [step * layer % num_layers for layer in range(num_layers)]
