"""P-tuning: a soft prompt that a small network makes from free vectors, which eases learning.

x' = [E(h)_1 .. E(h)_n ; x]      h: (num_tokens, width of the embeddings), normal at random

E is three linear layers with ReLU between, or a bidirectional LSTM and two linear layers. It runs once per step, not once
per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith import settings
from tunesmith.errors import SettingsError
from tunesmith.interchange import PROMPT_IGNORED, PROMPT_PREFIX, PeftFormat, PeftParts, prompt_parts, prompt_vectors
from tunesmith.method import Method
from tunesmith.model import anatomy, surgery, virtual_tokens

HEAD_RATE = 10.0
"""How many times as fast as the prompt encoder a new head learns: at one rate either the head lags or the network diverges."""


class PromptEncoder(virtual_tokens.VirtualTokens):
    """Free vectors and the network that makes a prompt of them."""

    def __init__(self, num_tokens: int, width: int, hidden: int, kind: str) -> None:
        super().__init__(num_tokens)
        self.vectors = nn.Parameter(torch.randn(num_tokens, width))
        self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True) if kind == "lstm" else None
        first, inner = (2 * hidden, 2 * hidden) if kind == "lstm" else (width, hidden)
        between = [] if kind == "lstm" else [nn.Linear(hidden, hidden), nn.ReLU()]
        layers = [nn.Linear(first, inner), nn.ReLU(), *between, nn.Linear(inner, width)]
        self.mlp = nn.Identity() if kind == "none" else nn.Sequential(*layers)

    def forward(self) -> Tensor:
        """`(num_tokens, width of the embeddings)`."""
        return self.mlp(self.vectors if self.lstm is None else self.lstm(self.vectors[None])[0][0])


@dataclass(frozen=True, kw_only=True)
class PTuning(Method, PeftFormat):
    """Soft prompt from a prompt encoder."""

    name = "ptuning"
    paper = "https://arxiv.org/abs/2103.10385"
    starts_as_identity = False
    mergeable = False
    learning_rate = 1e-3
    learning_rate_small = 1e-3
    peft_type = "P_TUNING"
    peft_prefix = PROMPT_PREFIX
    peft_keys = frozenset({"num_virtual_tokens", "token_dim", "num_transformer_submodules"})
    peft_ignored = PROMPT_IGNORED | {
        "encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout"
    }  # fmt: skip

    num_tokens: int = 20
    """How many virtual tokens; each takes the place of one token of the longest input."""
    encoder: Literal["mlp", "lstm", "none"] = "mlp"
    """The network that makes the prompt; `none` for finished vectors, as an adapter is saved with."""
    hidden: int | None = None
    """Inner width of the encoder. Default: the width of the embeddings."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_tokens <= 4096:
            raise SettingsError(f"method.num_tokens must be between 1 and 4096, found {self.num_tokens}.")
        if self.hidden is not None and self.hidden < 1:
            raise SettingsError(f"method.hidden must be at least 1, found {self.hidden}.")

    @property
    def num_positions(self) -> int:
        return self.num_tokens

    def rate_of(self, parameter_name: str) -> float:
        return 1.0 if virtual_tokens.NAME in parameter_name.split(".") else HEAD_RATE

    def attach(self, model: nn.Module) -> None:
        assert isinstance(model, PreTrainedModel)
        width = anatomy.stored_weight(model.get_input_embeddings()).shape[1]
        surgery.freeze(model)
        with anatomy.device_of(model):
            tokens = PromptEncoder(self.num_tokens, width, self.hidden or width, self.encoder)
        virtual_tokens.prepend(model, tokens)
        surgery.thaw(model, anatomy.new_head_parameters(model))

    @torch.no_grad()
    def to_peft(self, model: nn.Module, trained: Mapping[str, Tensor]) -> PeftParts:
        path, tokens = virtual_tokens.find(model)
        return prompt_parts(model, tokens(), {n: tensor for n, tensor in trained.items() if not n.startswith(f"{path}.")})

    @classmethod
    def from_peft(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], model: nn.Module
    ) -> tuple[PTuning, dict[str, Tensor]]:
        assert isinstance(model, PreTrainedModel)
        vectors = prompt_vectors(config, tensors)
        method = settings.from_mapping(cls, {"num_tokens": len(vectors), "encoder": "none"}, "adapter_config.json")
        return method, {f"{virtual_tokens.path_before_words(model)}.vectors": vectors}
