"""Rows for the packed engine, and the obvious computation that it must equal: one row at a time, through the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedModel

import tiny_models
from tunesmith.kernels.segments import Segments
from tunesmith.model.batch import Batch
from tunesmith.model.forward import Forward

LENGTHS = [5, 1, 17, 2, 9]
"""Shorter and longer than the tiny models' sliding window, and a row of one token."""
assert min(LENGTHS) < tiny_models.SLIDING_WINDOW < max(LENGTHS)
TARGET_LENGTHS = [3, 7, 1, 2, 9]


@dataclass(frozen=True)
class Answer:
    """What a batch gives: logits `(targets, vocabulary or classes)`, summed loss, gradients by parameter."""

    logits: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]


def batch(model: PreTrainedModel, task: tiny_models.Task, lengths: list[int] = LENGTHS, *, types: bool = False) -> Batch:
    """Random rows; of a language model every second token is predicted, in the longest row only the last."""
    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> Tensor:
        return torch.randint(8, tiny_models.VOCABULARY_SIZE, (count,), generator=generator)

    ids = draw(sum(lengths))
    token_types = torch.randint(2, ids.shape, generator=generator) if types else None
    if task == "classification":
        targets = torch.randint(3, (len(lengths),), generator=generator)
        return Batch(input_ids=ids, lengths=lengths, targets=targets, token_types=token_types)
    if task == "seq2seq":
        count = sum(TARGET_LENGTHS)
        return Batch(
            input_ids=ids,
            lengths=lengths,
            targets=draw(count),
            positions=torch.arange(count),
            decoder_lengths=TARGET_LENGTHS,
        )
    longest = list(Segments(lengths))[lengths.index(max(lengths))]
    positions = [i for i in range(0, len(ids), 2) if not longest.start <= i < longest.stop] + [longest.stop - 1]
    positions = torch.tensor(sorted(positions))
    return Batch(input_ids=ids, lengths=lengths, targets=draw(len(positions)), positions=positions)


def together(forward: Forward, batch: Batch) -> Answer:
    """The engine's answer to the whole batch."""
    model = forward.model
    model.zero_grad()
    with forward.scope(batch):
        loss = forward.loss(batch)
        loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with torch.no_grad():
        if batch.positions is None:
            logits = forward.class_logits(batch)
        elif batch.decoder_lengths is None:
            logits = torch.cat(list(forward.token_logits(batch)))[batch.positions]
        else:
            logits = -forward.target_losses(batch)[:, None]  # no stream of tokens to ask for
    return Answer(logits, loss.detach(), gradients)


def one_by_one(model: PreTrainedModel, batch: Batch) -> Answer:
    """Each row alone through `transformers`' own forward, without any attention mask or padding; nothing of ours."""
    model.zero_grad()
    loss, logits = torch.zeros(()), []
    starts = torch.tensor([0, *batch.lengths]).cumsum(0).tolist()
    target_starts = torch.tensor([0, *(batch.decoder_lengths or [])]).cumsum(0).tolist()
    for row, (start, stop) in enumerate(pairwise(starts)):
        inputs = {"input_ids": batch.input_ids[None, start:stop]}
        if batch.token_types is not None:
            inputs["token_type_ids"] = batch.token_types[None, start:stop]
        if batch.positions is None:
            targets = batch.targets[row : row + 1]
        elif batch.decoder_lengths is not None:
            targets = batch.targets[target_starts[row] : target_starts[row + 1]]
            first = torch.full((1,), model.config.decoder_start_token_id)
            inputs["decoder_input_ids"] = torch.cat([first, targets[:-1]])[None]
        else:
            inside = (batch.positions >= start) & (batch.positions < stop)
            targets = batch.targets[inside]
        answer = model(**inputs).logits
        if batch.positions is not None:
            answer = answer[0] if batch.decoder_lengths is not None else answer[0, batch.positions[inside] - start]
        each = torch.nn.functional.cross_entropy(answer, targets, reduction="none")
        each.sum().backward()
        loss += each.detach().sum()
        logits.append(-each.detach()[:, None] if batch.decoder_lengths is not None else answer.detach())
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return Answer(torch.cat(logits), loss, gradients)


def assert_equal(found: Answer, expected: Answer, tolerance: float = 1e-5) -> None:
    """Logits, loss and every gradient agree, relative to the largest number of each tensor."""
    assert set(found.gradients) == set(expected.gradients)
    pairs = {"logits": (found.logits, expected.logits), "loss": (found.loss, expected.loss)}
    pairs |= {name: (found.gradients[name], tensor) for name, tensor in expected.gradients.items()}
    largest_gradient = max(t.abs().max().item() for t in expected.gradients.values())
    for name, (one, other) in pairs.items():
        assert one.shape == other.shape, name
        # A gradient that is zero but for rounding, as that of a key's bias, has no scale of its own.
        floor = 0.1 * largest_gradient if name in expected.gradients else 0.0
        scale = max(other.abs().max().item(), floor)
        difference = (one - other).abs().max().item()
        assert difference <= tolerance * scale, f"{name}: {difference:.2g} at a scale of {scale:.2g}"
