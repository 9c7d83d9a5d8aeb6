"""Tiny seeded training runs, for tests of the step and the loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import tiny_models
from tunesmith.data.table import IGNORED, TokenTable, offsets_of
from tunesmith.method import Method
from tunesmith.methods.lora import LoRA
from tunesmith.model.forward import Forward, PackedForward
from tunesmith.training.log import MetricsLog
from tunesmith.training.loop import Evaluation, Loop, Plan, State
from tunesmith.training.optimizer import FlatAdamW
from tunesmith.training.schedule import Schedule
from tunesmith.watch import Progress


def language_table(num_rows: int = 8, *, seed: int = 0) -> TokenTable:
    """Rows of 2 to 14 tokens; the first tokens of each are a prompt without loss, so rows have unlike numbers of targets."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 15, num_rows)
    ids = generator.integers(8, tiny_models.VOCABULARY_SIZE, lengths.sum()).astype(np.int32)
    labels, offsets = ids.copy(), offsets_of(lengths)
    for start, length in zip(offsets, lengths, strict=False):
        labels[start : start + generator.integers(1, length)] = IGNORED
    return TokenTable(input_ids=ids, labels=labels, offsets=offsets)


def table_that_begins_alike(num_rows: int = 8, num_words: int = 6, *, seed: int = 0) -> TokenTable:
    """The same rows, each behind the same words, which carry no loss."""
    table, words = language_table(num_rows, seed=seed), np.arange(40, 40 + num_words, dtype=np.int32)
    places = np.repeat(table.offsets[:-1], num_words)
    labels = np.insert(table.labels, places, IGNORED)
    ids = np.insert(table.input_ids, places, np.tile(words, num_rows)).astype(np.int32)
    return TokenTable(input_ids=ids, labels=labels, offsets=offsets_of(table.lengths + num_words))


def class_table(num_rows: int = 8, *, seed: int = 0) -> TokenTable:
    """Rows of 2 to 14 tokens with one of three classes."""
    table, generator = language_table(num_rows, seed=seed), np.random.default_rng(seed)
    return replace(table, labels=generator.integers(0, 3, num_rows).astype(np.int32), labels_per_row=True)


def attached(
    method: Method,
    architecture: str = "llama",
    task: tiny_models.Task = "causal",
    *,
    kind: type[Forward] = PackedForward,
    device: str = "cpu",
) -> tuple[Forward, FlatAdamW]:
    """A tiny model with a method on it and the optimizer of what it trains; the same arguments, the same weights."""
    model = tiny_models.build(architecture, task)
    nn.Module.to(model, device)
    torch.manual_seed(0)
    method.attach(model)
    return kind(model), FlatAdamW(model.named_parameters(), 0.01)


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """A copy of all parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all tensors are bitwise equal."""
    return set(one) == set(other) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class TokensOfALayer:
    """Counts the tokens that the second layer of a model computes."""

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        norm = next(module for name, module in model.named_modules() if name.endswith("layers.1.input_layernorm"))
        norm.register_forward_hook(self)

    def __call__(self, _module: nn.Module, _inputs: object, states: Tensor) -> None:
        self.count += states.shape[-2]


@dataclass
class Silent:
    """A watch that keeps warnings and progress."""

    warnings: list[str] = field(default_factory=list)
    steps: list[Progress] = field(default_factory=list)

    def say(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress)


@dataclass
class Saved:
    """A checkpoint in memory."""

    state: dict[str, object]
    tensors: dict[str, Tensor]
    is_best: bool


@dataclass
class FakeKeeper:
    """Evaluates by a list of ranks, one after the other, and keeps every checkpoint."""

    optimizer: FlatAdamW
    ranks: list[float] = field(default_factory=list)
    evaluated: int = 0
    saved: dict[int, Saved] = field(default_factory=dict)

    def evaluate(self) -> Evaluation:
        rank = self.ranks[min(self.evaluated, len(self.ranks) - 1)] if self.ranks else -float(self.evaluated)
        self.evaluated += 1
        return Evaluation((rank,), {"loss": rank})

    def save(self, state: State, *, is_best: bool) -> None:
        tensors = {name: tensor.clone() for name, tensor in self.optimizer.state().items()}
        self.saved[state.step] = Saved(dict(state.to_mapping()), tensors, is_best)


PLAN = Plan(
    num_steps=6,
    rows_per_step=3,
    tokens_per_pass=20,
    schedule=Schedule(peak=0.01, num_steps=6, warmup_steps=1),
    clip_norm=1.0,
    evaluate_every=100,
    patience=0,
    checkpoint_every_seconds=1e9,
    checkpoint_every_steps=None,
    max_seconds=None,
    seed=7,
)
"""Six steps over three quarters of two epochs of eight rows, some of them in two passes."""


def loop(
    folder: Path,
    plan: Plan = PLAN,
    *,
    method: Method | None = None,
    table: TokenTable | None = None,
    device: str = "cpu",
) -> Loop:
    """A loop over a fresh tiny model."""
    forward, optimizer = attached(method or LoRA(rank=2, dropout=0.2), device=device)
    log = MetricsLog(folder)
    return Loop(forward, table or language_table(), optimizer, plan, FakeKeeper(optimizer), log, Silent())
