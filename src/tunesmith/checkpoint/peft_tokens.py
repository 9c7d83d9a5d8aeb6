"""Rows of embeddings, for added tokens, as PEFT keeps them: `trainable_token_indices` and one tensor for each embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.interchange import PREFIX
from tunesmith.model import token_rows
from tunesmith.model.safe_files import shown

KEY = "trainable_token_indices"
_ENDING = ".token_adapter.trainable_tokens_delta"  # PEFT's word; it holds the rows themselves


@dataclass(frozen=True)
class Rows:
    """Learnt rows of the embedding at `path`."""

    path: str
    tokens: list[int]
    tensor: Tensor
    """(tokens, hidden)"""


def read(config: Mapping[str, object], tensors: Mapping[str, Tensor], where: str) -> tuple[list[Rows], dict[str, Tensor]]:
    """The learnt rows that an adapter holds, and its other tensors; all under PEFT's names.

    Raises:
        ModelError: If the tokens of some rows are not named, or the rows of some tokens are missing.
    """
    named, found = config.get(KEY), {}
    for name, tensor in tensors.items():
        if name.startswith(PREFIX) and name.endswith(_ENDING):
            found[name.removeprefix(PREFIX).removesuffix(_ENDING)] = tensor
    groups = {path: _tokens(named, path, tensor, where) for path, tensor in found.items()}
    if named and (not groups or (isinstance(named, Mapping) and len(named) != len(groups))):
        raise ModelError(f"{where}: {KEY!r} is {shown(named)}, and the adapter has rows for {', '.join(groups) or 'none'}.")
    rest = {name: t for name, t in tensors.items() if not (name.startswith(PREFIX) and name.endswith(_ENDING))}
    return [Rows(path, groups[path], tensor) for path, tensor in found.items()], rest


def _tokens(named: object, path: str, tensor: Tensor, where: str) -> list[int]:
    """The tokens that the rows of the embedding at `path` stand for."""
    if isinstance(named, Mapping):
        named = next((tokens for key, tokens in named.items() if path == key or path.endswith(f".{key}")), None)
    if not isinstance(named, list) or any(type(token) is not int for token in named):
        raise ModelError(f"{where}: {KEY!r} must list whole numbers for {path[:120]!r}, found {shown(named)}.")
    if tensor.ndim != 2 or len(tensor) != len(named):
        raise ModelError(f"{where}: {KEY!r} names {len(named)} tokens for {len(tensor)} rows of {path[:120]!r}.")
    return named


def write(model: nn.Module, trained: Mapping[str, Tensor]) -> tuple[dict[str, object], dict[str, Tensor], dict[str, Tensor]]:
    """The configuration and the tensors, under PEFT's names, of the rows that learn, and all else that was trained."""
    layers = token_rows.layers(model)
    own = {f"{path}.rows": f"{PREFIX}{path}{_ENDING}" for path in layers}
    config: dict[str, object] = {KEY: {path: layer.tokens.tolist() for path, layer in layers.items()}} if layers else {}
    rest = {name: tensor for name, tensor in trained.items() if name not in own}
    return config, {theirs: trained[ours] for ours, theirs in own.items()}, rest
