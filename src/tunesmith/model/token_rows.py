"""Single rows of an embedding that learn, for added tokens: the rest of the vocabulary stays as it is.

e(t) = r_i if t is the i-th of the tokens, else W_t      r: (tokens, hidden), at the start W at these tokens

Output embeddings that share W answer for these tokens by the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError
from tunesmith.model import anatomy, surgery


class TokenRows(nn.Module):
    """An embedding, or output embeddings, some rows of which are replaced by learnt ones."""

    tokens: Tensor
    """(tokens,)"""

    def __init__(self, base: nn.Embedding | nn.Linear, tokens: Tensor, rows: nn.Parameter) -> None:
        super().__init__()
        self.base, self.rows = base, rows
        self.register_buffer("tokens", tokens, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map token ids `(...)` to `(..., hidden)`, or states `(..., hidden)` to `(..., vocabulary)`."""
        rows = self.rows.to(self.base.weight.dtype)
        if isinstance(self.base, nn.Linear):
            bias = None if self.base.bias is None else self.base.bias[self.tokens]
            return self.base(x).index_copy(-1, self.tokens, nn.functional.linear(x, rows, bias))
        chosen = x[..., None] == self.tokens
        own = chosen.to(rows.dtype) @ rows * anatomy.embedding_scale(self.base)
        return torch.where(chosen.any(-1, keepdim=True), own, self.base(x))

    @property
    def weight(self) -> Tensor:
        """The frozen weight, as stored; some models look at its size and data type."""
        return self.base.weight


def train(model: nn.Module, path: str, tokens: Sequence[int]) -> str:
    """Let the rows of some tokens learn in the embedding, or output embeddings, at `path` and wherever these are shared.

    Gives the name of the parameter that learns.

    Raises:
        ModelError: If there is no such layer, or no such rows in it.
    """
    module = next((module for name, module in model.named_modules() if name == path), None)
    if not isinstance(module, nn.Embedding | nn.Linear):
        raise ModelError(f"Rows of {path[:120]!r} cannot learn: this model has no embedding and no linear layer of that name.")
    num_rows = len(module.weight)
    if any(type(token) is not int for token in tokens):
        raise ModelError(f"The tokens whose rows of {path!r} learn must be whole numbers, found {str(tokens)[:80]}.")
    if odd := [token for token in tokens if not 0 <= token < num_rows]:
        raise ModelError(f"Token {odd[0]} has no row in {path!r}, which has {num_rows}. Name the base model it was trained on.")
    if len(set(tokens)) < len(tokens):
        raise ModelError(f"A token is named twice among those whose rows of {path!r} learn: {list(tokens)}.")
    places = torch.tensor(tokens, dtype=torch.long, device=module.weight.device)
    rows = nn.Parameter(module.weight.detach()[places].float())
    made: dict[int, TokenRows] = {}
    for name, other in list(model.named_modules(remove_duplicate=False)):
        if isinstance(other, nn.Embedding | nn.Linear) and other.weight is module.weight:
            surgery.replace(model, name, made.setdefault(id(other), TokenRows(other, places.clone(), rows)))
    return next(name for name, parameter in model.named_parameters() if parameter is rows)


def embeddings(model: nn.Module) -> list[str]:
    """The paths of the model's input and output embeddings."""
    if not isinstance(model, PreTrainedModel):
        return []
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return [path for path, module in model.named_modules() if any(module is one for one in modules)]


def require(model: PreTrainedModel, ids: ArrayLike, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Refuse token ids for which the model has no embedding; the tokenizer says what a token stands for.

    Raises:
        ModelError: If there is one.
    """
    num_rows, largest = len(anatomy.stored_weight(model.get_input_embeddings())), int(np.max(ids, initial=0))
    if largest >= num_rows:
        named = f"token {largest}" + ("" if tokenizer is None else f", {str(tokenizer.decode(largest))[:80]!r},")
        raise ModelError(
            f"The rows have {named} and the model has {num_rows} embeddings: tokens were added to the tokenizer alone. Make "
            "the model as large with model.resize_token_embeddings(len(tokenizer)) and save it; --method full trains them."
        )


def layers(model: nn.Module) -> dict[str, TokenRows]:
    """The layers with learnt rows, by path; of those that share them the first."""
    found: dict[int, tuple[str, TokenRows]] = {}
    for path, module in model.named_modules():
        if isinstance(module, TokenRows):
            found.setdefault(id(module.rows), (path, module))
    return dict(found.values())


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Write the learnt rows into the weights that they stand for."""
    for layer in layers(model).values():
        layer.base.weight[layer.tokens] = layer.rows.to(layer.base.weight.dtype)
