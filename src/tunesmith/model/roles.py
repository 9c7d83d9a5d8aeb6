"""Which linear layers of a model do what: the projections of attention, the way into and out of each feed-forward block.

A role is known by the last parts of a layer's path, or by the place of its outputs in a fused projection.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from tunesmith.errors import NoSuchTarget
from tunesmith.model import anatomy

KEYS, VALUES, QUERIES = "keys", "values", "queries"
ATTENTION, FEED_FORWARD = "attention", "feed-forward"
FEED_FORWARD_IN = "feed-forward-in"
_PATTERNS = {
    QUERIES: ("q_proj", "*.query", "q_lin", "*Attention.q"),
    KEYS: ("k_proj", "*.key", "k_lin", "*Attention.k"),
    VALUES: ("v_proj", "*.value", "v_lin", "*Attention.v"),
    ATTENTION: (
        *("o_proj", "*attn.out_proj", "out_lin", "*Attention.o", "*attn.Wo", "*attn.c_proj"),
        *("*attention.output.dense", "*attention.dense"),
    ),
    FEED_FORWARD: ("down_proj", "fc2", "lin2", "*.wo", "*mlp.Wo", "*mlp.c_proj", "*.output.dense", "dense_4h_to_h"),
    FEED_FORWARD_IN: (
        *("gate_proj", "gate_up_proj", "fc1", "lin1", "*.wi", "*.wi_0", "*mlp.Wi", "*.c_fc"),
        *("*intermediate.dense", "dense_h_to_4h"),
    ),
}
"""Patterns for the last part of a path, or for the whole path if they begin with `*`."""
_LAST_NORMS = ("output.LayerNorm", "output_layer_norm", "full_layer_layer_norm")
"""Norms that end a layer: of BERT and its relatives, of DistilBERT, of ALBERT."""
_FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv")
_PART = {QUERIES: 0, KEYS: 1, VALUES: 2}

Range = tuple[int, int]


@dataclass(frozen=True)
class Outputs:
    """Some of the outputs of a linear layer, or all of them."""

    path: str
    ranges: tuple[Range, ...]
    """Half-open ranges of output numbers, in order."""

    def __len__(self) -> int:
        return sum(end - start for start, end in self.ranges)


def layers(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Paths of the linear layers that `targets` mean: roles, or patterns as `anatomy.linear_targets` takes them.

    Raises:
        NoSuchTarget: If one matches nothing; the message lists what the model has.
    """
    found = anatomy.linear_targets(model, (anatomy.ALL_LINEAR,))
    wanted: set[str] = set()
    for target in targets:
        matches = [path for path in found if _plays(path, target)]
        wanted.update(matches or anatomy.linear_targets(model, (target,)))
    return [path for path in _linear_paths(model) if path in wanted]


def outputs(model: nn.Module, targets: tuple[str, ...]) -> list[Outputs]:
    """The outputs that `targets` mean: with a role only its share of a fused projection, with a pattern whole layers.

    Raises:
        NoSuchTarget: If one matches nothing; the message lists what the model has.
    """
    fused = [path for path in anatomy.linear_targets(model, (anatomy.ALL_LINEAR,)) if path.rpartition(".")[2] in _FUSED]
    parts = sorted(_PART[target] for target in targets if target in _PART)
    named = tuple(target for target in targets if not (target in _PART and fused))
    whole = {path: Outputs(path, ((0, anatomy.linear_sizes(model.get_submodule(path))[1]),)) for path in layers(model, named)}
    shares = {path: Outputs(path, _share(model, path, parts)) for path in fused if parts and path not in whole}
    chosen = {**whole, **shares}
    return [chosen[path] for path in _linear_paths(model) if path in chosen]


def blocks(model: nn.Module) -> list[tuple[str, str]]:
    """The feed-forward blocks, as paths of (the layer that reads the block's input, the layer that gives its output).

    Raises:
        NoSuchTarget: If none is found.
    """
    readers, writers = layers(model, (FEED_FORWARD_IN,)), layers(model, (FEED_FORWARD,))
    if len(readers) != len(writers):
        raise NoSuchTarget(f"The model has {len(readers)} ways into feed-forward blocks and {len(writers)} out of them.")
    return list(zip(readers, writers, strict=True))


def readers_of_one_input(model: nn.Module, among: Iterable[str]) -> list[list[str]]:
    """Groups of two or more of the layers at the paths `among` that are given the same tensor.

    These are the projections to queries, keys and values of self-attention, and the two branches of gated feed-forward
    layers. Cross-attention reads two inputs, so an encoder-decoder has none.
    """
    if anatomy.is_encoder_decoder(model.config):  # pyright: ignore[reportArgumentType]
        return []
    groups: dict[tuple[str, bool], list[str]] = {}
    for path in among:
        attends = any(_plays(path, role) for role in (QUERIES, KEYS, VALUES))
        if attends or path.rpartition(".")[2] in ("gate_proj", "up_proj"):
            groups.setdefault((path.rpartition(".")[0], attends), []).append(path)
    return [paths for paths in groups.values() if len(paths) > 1]


def sum_behind(model: nn.Module, end: str) -> tuple[str, str | None]:
    """The layer that the linear layer at `end` is the last of, and the norm that the layer's sum goes through, if one ends it.

    A family whose layers end in a norm that is not known here is taken for one without: its sum is then read behind the norm.

    Raises:
        NoSuchTarget: If it is in no numbered layer.
    """
    match = re.match(r"(.*\.\d+)\.", end)
    if match is None:
        raise NoSuchTarget(f"{end!r} is in no numbered layer, so it is not known where its output is added to what came in.")
    final = ("final_layer_norm",) if anatomy.ends_layers_with_final_norm(model) else ()
    paths = {path for path, _ in model.named_modules()}
    return match[1], next((path for name in (*_LAST_NORMS, *final) if (path := f"{match[1]}.{name}") in paths), None)


def _linear_paths(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if anatomy.is_linear(module)]


def _plays(path: str, role: str) -> bool:
    leaf = path.rpartition(".")[2]
    if role == FEED_FORWARD and _plays(path, ATTENTION):  # BERT calls the ends of both sub-layers `output.dense`
        return False
    return any(fnmatch.fnmatchcase(path if p.startswith("*") else leaf, p) for p in _PATTERNS.get(role, ()))


def _share(model: nn.Module, path: str, parts: list[int]) -> tuple[Range, ...]:
    """Where queries (0), keys (1) and values (2) stand among the outputs of the fused projection at `path`."""
    num_outputs = anatomy.linear_sizes(model.get_submodule(path))[1]
    heads, key_heads, width = anatomy.attention_sizes(model.config)  # pyright: ignore[reportArgumentType]
    if path.endswith("query_key_value"):  # head after head, each with its query, key and value
        starts = [(head * 3 + part) * width for head in range(heads) for part in parts]
        return tuple((start, start + width) for start in starts)
    sizes = (heads * width, key_heads * width, key_heads * width)
    if sum(sizes) != num_outputs:
        raise NoSuchTarget(f"{path!r} has {num_outputs} outputs, which are not queries, keys and values of {sizes}.")
    return tuple((sum(sizes[:part]), sum(sizes[: part + 1])) for part in parts)
