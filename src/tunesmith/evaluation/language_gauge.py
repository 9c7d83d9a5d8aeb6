"""How much a language model forgot: its perplexity on general text, and how far its predictions moved from the base model's.

KL(base || tuned) = sum_v p(v) log(p(v) / q(v)) per token needs the base model's whole distribution. Kept are its 64 most
probable tokens; all others are taken together as one class. By the data-processing inequality merging classes can only
lower the divergence, so the number is a lower bound, and it is exactly 0 if the model did not change. KL on inputs
predicts forgetting better than distances between weights (RL's Razor, arXiv 2509.04259).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.evaluation.metrics import exponential
from tunesmith.evaluation.retention import Level, Pass, Reader, Record, Retention, Row, passes, require_rows, with_rows
from tunesmith.evaluation.statistics import ratio
from tunesmith.measure import Measure

NUM_KEPT = 64
"""Most probable tokens of the base model that are kept per position."""
LITTLE_RATIO, MUCH_RATIO = 1.05, 1.25
"""Perplexity on general text, tuned / base, from which a model forgot a little, or much: a convention, not calibrated."""
MOVED_DIVERGENCE = 0.25
"""Nats per token from which predictions count as moved, even if perplexity did not rise."""
_TINY = 1e-12
"""The least probability of 'any other token'; below it float32 holds nothing but rounding."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LanguageGauge:
    """Measures next-token predictions on fixed rows. The model's outputs are logits (tokens, vocab) of every position."""

    rows: Sequence[Row]
    tokens_per_pass: int = 512

    def before(self, reader: Reader) -> Record:
        """What to keep of the base model: loss of every row, and the likeliest tokens with their log-probabilities."""
        found = list(reader(passes(self.rows, self.tokens_per_pass), _likeliest))
        losses, ids, log_probabilities = map(np.concatenate, zip(*found, strict=True))
        record: Record = {
            "loss_sums": self._sums_by_row(losses),
            "kept_ids": ids,
            "kept_log_probabilities": log_probabilities,
        }
        return with_rows(self.rows, record)

    def after(self, reader: Reader, record: Record) -> Retention:
        """Compare the tuned model with what `before` kept.

        Raises:
            RunError: If the record was made on other rows.
        """
        require_rows(self.rows, record)
        starts = np.concatenate([[0], np.cumsum(self._target_counts())])

        def compared(group: Pass, blocks: Iterable[Tensor]) -> tuple[Floats, Floats]:
            """Loss and divergence (predictions,) of a pass."""
            losses, divergences, start = [], [], int(starts[group.first])
            for logits, targets in _predictions(group, blocks):
                here = slice(start, start + len(targets))
                kept = torch.from_numpy(record["kept_ids"][here]).to(logits.device, torch.int64)
                of_targets, of_kept = _log_probabilities(logits, targets, kept)
                losses.append(-of_targets)
                divergences.append(_divergence(record["kept_log_probabilities"][here], of_kept, logits.shape[1]))
                start = here.stop
            return np.concatenate(losses), np.concatenate(divergences)

        found = list(reader(passes(self.rows, self.tokens_per_pass), compared))
        loss_sums, divergence = (self._sums_by_row(np.concatenate(one)) for one in zip(*found, strict=True))
        return self._compare(record["loss_sums"].astype(np.float64), loss_sums, divergence)

    def _compare(self, before: Floats, after: Floats, divergence: Floats) -> Retention:
        """The measures and the sentence, from sums over the tokens of each row (rows,)."""
        counts = self._target_counts()
        measures = {
            "general_perplexity_before": exponential(ratio(before, counts)),
            "general_perplexity_after": exponential(ratio(after, counts)),
            "general_perplexity_ratio": exponential(ratio(after - before, counts)),
            "kl_to_base": ratio(divergence, counts),
        }
        level = _level(measures["general_perplexity_ratio"])
        return Retention(measures=measures, level=level, sentence=_sentence(level, measures))

    def _target_counts(self) -> NDArray[np.int64]:
        """Tokens predicted in each row (rows,): all but its first."""
        return np.array([max(len(row) - 1, 0) for row in self.rows], dtype=np.int64)

    def _sums_by_row(self, values: Floats) -> Floats:
        """Sums (rows,) of values per predicted token (predictions,)."""
        sums = np.zeros(len(self.rows))
        np.add.at(sums, np.repeat(np.arange(len(self.rows)), self._target_counts()), values)
        return sums


def _likeliest(group: Pass, blocks: Iterable[Tensor]) -> tuple[Floats, NDArray[np.int32], NDArray[np.float32]]:
    """Of a pass: losses (predictions,), and the likeliest tokens with their log-probabilities (predictions, kept)."""
    losses, ids, log_probabilities = [], [], []
    for logits, targets in _predictions(group, blocks):
        kept = logits.topk(min(NUM_KEPT, logits.shape[1]), dim=1).indices
        of_targets, of_kept = _log_probabilities(logits, targets, kept)
        losses.append(-of_targets)
        ids.append(kept.to("cpu", torch.int32).numpy())
        log_probabilities.append(of_kept)
    return np.concatenate(losses), np.concatenate(ids), np.concatenate(log_probabilities)


def _predictions(group: Pass, blocks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of logits (predictions, vocab) with the tokens they should predict (predictions,), last positions left out."""
    tokens = np.concatenate([row.astype(np.int64) for row in group.rows])
    predicts = np.ones(len(tokens), dtype=bool)
    predicts[np.cumsum([len(row) for row in group.rows]) - 1] = False
    targets, mask = torch.from_numpy(np.roll(tokens, -1)), torch.from_numpy(predicts)
    start = 0
    for logits in blocks:
        here = slice(start, start + len(logits))
        yield logits.detach()[mask[here].to(logits.device)], targets[here][mask[here]].to(logits.device)
        start += len(logits)
    if start != len(tokens):
        raise ValueError(f"the model gave {start} positions for {len(tokens)} tokens.")


def _log_probabilities(logits: Tensor, targets: Tensor, kept: Tensor) -> tuple[Floats, NDArray[np.float32]]:
    """Log-probabilities of the tokens `targets` (predictions,) and `kept` (predictions, kept)."""
    wide = logits.float()
    found = (wide.gather(1, torch.cat([targets[:, None], kept], 1)) - wide.logsumexp(dim=1, keepdim=True)).cpu().numpy()
    return found[:, 0].astype(np.float64), found[:, 1:]


def _divergence(base: NDArray[np.generic], tuned: NDArray[np.float32], vocabulary_size: int) -> Floats:
    """KL (predictions,) between two distributions over the kept tokens and 'any other token', never below 0."""
    before, after = base.astype(np.float64), tuned.astype(np.float64)
    divergence = (np.exp(before) * (before - after)).sum(axis=1)
    if before.shape[1] < vocabulary_size:
        rest_before, rest_after = _rest(before), _rest(after)
        divergence += rest_before * np.log(rest_before / rest_after)
    return np.maximum(divergence, 0.0)


def _rest(log_probabilities: Floats) -> Floats:
    """The probability (predictions,) of all tokens that were not kept."""
    return np.maximum(1.0 - np.exp(log_probabilities).sum(axis=1), _TINY)


def _level(perplexity_ratio: Measure) -> Level:
    """How much was forgotten, by the rise of perplexity on general text, if that is more than chance."""
    if perplexity_ratio.value < LITTLE_RATIO:
        return "remembers"
    if _may_be_one(perplexity_ratio):
        return "unsure"
    return "forgot a little" if perplexity_ratio.value < MUCH_RATIO else "forgot much"


def _may_be_one(ratio: Measure) -> bool:
    """Whether the interval of a ratio allows for no difference."""
    return ratio.low is not None and ratio.high is not None and ratio.low <= 1.0 <= ratio.high


def _sentence(level: Level, measures: dict[str, Measure]) -> str:
    """The finding in one line."""
    before, after = (measures[f"general_perplexity_{when}"].value for when in ("before", "after"))
    change, divergence = measures["general_perplexity_ratio"], measures["kl_to_base"].value
    if change.value == 1.0 and divergence == 0.0:
        return f"{level}: predictions on general text are exactly those of the base model (perplexity {after:.2f})."
    quiet = level in ("remembers", "unsure")
    moved = ", but its predictions moved" if quiet and divergence >= MOVED_DIVERGENCE else ""
    found = "no difference found" if _may_be_one(change) else f"x{change.value:.3f}"
    return (
        f"{level}{moved}: perplexity on general text {before:.2f} -> {after:.2f} ({found}); "
        f"predictions differ from the base model's by at least {divergence:.3f} nats per token."
    )
