"""Prompt tuning: learn a few vectors that stand before the embeddings of every input.

x' = [p_1 .. p_n ; x]      p: (num_tokens, width of the embeddings), at the start the embeddings of random words
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith import settings
from tunesmith.errors import SettingsError
from tunesmith.interchange import PROMPT_IGNORED, PROMPT_PREFIX, PeftFormat, PeftParts, prompt_parts, prompt_vectors
from tunesmith.method import Method
from tunesmith.model import anatomy, surgery, virtual_tokens


class SoftPrompt(virtual_tokens.VirtualTokens):
    """Free vectors."""

    def __init__(self, start: Tensor) -> None:
        super().__init__(len(start))
        self.vectors = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        """`(num_tokens, width of the embeddings)`."""
        return self.vectors


@dataclass(frozen=True, kw_only=True)
class Prompt(Method, PeftFormat):
    """Soft prompt before every input."""

    name = "prompt"
    paper = "https://arxiv.org/abs/2104.08691"
    starts_as_identity = False
    mergeable = False
    learning_rate = 3e-2
    learning_rate_small = 3e-2
    peft_type = "PROMPT_TUNING"
    peft_prefix = PROMPT_PREFIX
    peft_keys = frozenset({"num_virtual_tokens", "token_dim", "num_transformer_submodules"})
    peft_ignored = PROMPT_IGNORED | {
        "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"
    }  # fmt: skip

    num_tokens: int = 20
    """How many vectors; each takes the place of one token of the longest input."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_tokens <= 4096:
            raise SettingsError(f"method.num_tokens must be between 1 and 4096, found {self.num_tokens}.")

    @property
    def num_positions(self) -> int:
        return self.num_tokens

    def attach(self, model: nn.Module) -> None:
        assert isinstance(model, PreTrainedModel)
        surgery.freeze(model)
        virtual_tokens.prepend(model, SoftPrompt(virtual_tokens.embeddings_of_random_words(model, self.num_tokens)))
        surgery.thaw(model, anatomy.new_head_parameters(model))

    def to_peft(self, model: nn.Module, trained: Mapping[str, Tensor]) -> PeftParts:
        name = f"{virtual_tokens.find(model)[0]}.vectors"
        return prompt_parts(model, trained[name], {n: tensor for n, tensor in trained.items() if n != name})

    @classmethod
    def from_peft(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], model: nn.Module
    ) -> tuple[Prompt, dict[str, Tensor]]:
        assert isinstance(model, PreTrainedModel)
        vectors = prompt_vectors(config, tensors)
        method = settings.from_mapping(cls, {"num_tokens": len(vectors)}, "adapter_config.json")
        return method, {f"{virtual_tokens.path_before_words(model)}.vectors": vectors}
