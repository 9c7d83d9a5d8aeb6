"""What held-out rows say of a model: metrics with intervals, answers to show, and how much it forgot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tunesmith.data.examples import Chat, Labelled, SourceTarget, Text
from tunesmith.data.pack import in_order_of_length, num_shared, pack
from tunesmith.data.prepared import Part
from tunesmith.evaluation import metrics, statistics
from tunesmith.evaluation.encoder_gauge import EncoderGauge
from tunesmith.evaluation.language_gauge import LanguageGauge
from tunesmith.evaluation.retention import Found, Pass, Reader, Work, general_rows
from tunesmith.measure import Measure
from tunesmith.model import anatomy, virtual_tokens
from tunesmith.model.batch import Batch
from tunesmith.model.forward import Forward
from tunesmith.model.source import Source
from tunesmith.runs import passes
from tunesmith.watch import Progress, Watch

SHOWN_CHARACTERS = 300  # of a window of text, and as many of how it goes on


@dataclass(frozen=True)
class Scores:
    """Per-row results of a model on a part of the data, in the order of its rows."""

    losses: NDArray[np.float64]
    """(rows,) summed over each row's targets, nats."""
    counts: NDArray[np.int64]
    """(rows,) targets of each row."""
    origins: NDArray[np.int64]
    """(rows,) which row of the data each was made of; the windows of one text share one, and are not independent."""
    predicted: NDArray[np.int64] | None = None
    """(rows,) class ids, for classification."""
    expected: NDArray[np.int64] | None = None
    """(rows,) class ids."""

    @property
    def goodness(self) -> NDArray[np.float64]:
        """(rows,) how well each row was answered: 1 or 0 for a class, minus the mean loss for text."""
        if self.predicted is not None:
            return (self.predicted == self.expected).astype(np.float64)
        return -self.losses / np.maximum(self.counts, 1)

    def by_origin(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """(origins,) sums of values (rows,) over all that was made of one row of the data."""
        known, owners = np.unique(self.origins, return_inverse=True)
        sums = np.zeros(len(known))
        np.add.at(sums, owners, values)
        return sums

    def metrics(self, num_classes: int) -> dict[str, Measure]:
        """Metrics with 95 % intervals."""
        if self.predicted is None or self.expected is None:
            return metrics.language(self.by_origin(self.losses), self.by_origin(self.counts))
        loss = {"loss": statistics.mean(self.losses)}
        return metrics.classification(self.predicted, self.expected, num_classes) | loss


def score(forward: Forward, part: Part, watch: Watch, phase: str) -> Scores:
    """Run all rows of a part through the model, without gradients; what they all begin with is computed once."""
    table = part.tokens
    losses, counts = np.zeros(len(table)), np.zeros(len(table), dtype=np.int64)
    predicted = np.zeros(len(table), dtype=np.int64)
    device, done = anatomy.device_of(forward.model), 0
    forward.model.eval()
    shared = num_shared(table) if forward.shares else 0
    groups = list(in_order_of_length(table, passes.TOKENS_AT_ONCE))

    @contextlib.contextmanager
    def prepared() -> Iterator[Callable[[NDArray[np.int64]], _OfRows]]:
        beginning = pack(table, np.arange(1), num_shared=shared).to(device).beginning if shared else None
        with virtual_tokens.made_once(forward.model, beginning):
            yield lambda rows: _of_rows(forward, pack(table, rows, num_shared=shared).to(device))

    for rows, found in zip(groups, passes.in_turn(groups, prepared, device), strict=True):
        losses[rows], counts[rows], predicted[rows] = found
        done += len(rows)
        watch.progress(Progress(phase=phase, done=done, total=len(table), unit="rows"))
    if not table.labels_per_row:
        return Scores(losses, counts, part.origins)
    return Scores(losses, counts, part.origins, predicted, table.labels.astype(np.int64))


class _OfRows(NamedTuple):
    """What is found of some rows."""

    losses: NDArray[np.float64]
    """(rows,) summed over each row's targets."""
    counts: NDArray[np.int64]
    """(rows,) targets of each."""
    predicted: NDArray[np.int64]
    """(rows,) class ids; 0 where there are none."""


@torch.no_grad()
def _of_rows(forward: Forward, batch: Batch) -> _OfRows:
    none = np.zeros(batch.num_rows, dtype=np.int64)
    if batch.positions is None:
        logits = forward.class_logits(batch)
        each = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
        return _OfRows(each.double().cpu().numpy(), none + 1, logits.argmax(-1).cpu().numpy())
    if not batch.num_targets:
        return _OfRows(none.astype(np.float64), none, none)
    each, owner = forward.target_losses(batch).double().cpu().numpy(), batch.row_of_target().cpu().numpy()
    sums = np.bincount(owner, each, minlength=len(none)).astype(np.float64)
    return _OfRows(sums, np.bincount(owner, minlength=len(none)).astype(np.int64), none)


def question_and_answer(part: Part, row: int, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What a row asks and what it expects, as text to show; of a long text, what stands in this row's window."""
    example = part.examples[row]
    match example:
        case Labelled():
            return (example.text if example.pair is None else f"{example.text}\n{example.pair}"), example.label
        case Chat():
            last = max(i for i, m in enumerate(example.messages) if m.role == "assistant")
            shown = [m.content for m in example.messages[:last] if m.role != "system"]
            return "\n\n".join(shown), example.messages[last].content
        case SourceTarget():
            return example.source, example.target
        case Text():
            window = str(tokenizer.decode(part.tokens.row(row)[0], skip_special_tokens=True))
            return window[:SHOWN_CHARACTERS], window[SHOWN_CHARACTERS : 2 * SHOWN_CHARACTERS]


def gauge(source: Source, task: str, longest: int | None) -> LanguageGauge | EncoderGauge:
    """The measure of forgetting that fits what the model does, with rows of at most `longest` tokens."""
    tokenizer = source.tokenizer

    def encode(text: str) -> Sequence[int]:
        return tokenizer(text, truncation=longest is not None, max_length=longest)["input_ids"]  # pyright: ignore[reportReturnType]

    rows = general_rows(encode)
    return LanguageGauge(rows) if task in ("chat", "text") else EncoderGauge(rows)


def reader(forward: Forward, gauge: LanguageGauge | EncoderGauge, watch: Watch, phase: str) -> Reader:
    """The model as the gauge sees it."""
    device = anatomy.device_of(forward.model)

    def outputs(group: Pass) -> Iterable[Tensor]:
        ids = torch.from_numpy(np.concatenate(group.rows).astype(np.int64)).to(device)
        batch = Batch(input_ids=ids, lengths=[len(row) for row in group.rows], targets=ids[:0])
        return forward.token_logits(batch) if isinstance(gauge, LanguageGauge) else [forward.mean_states(batch)]

    def read(groups: Sequence[Pass], work: Work[Found]) -> Iterator[Found]:
        forward.model.eval()
        watch.progress(Progress(phase=phase, done=0, total=len(gauge.rows), unit="texts"))
        found = passes.in_turn(groups, lambda: contextlib.nullcontext(lambda one: work(one, outputs(one))), device)
        for group, one in zip(groups, found, strict=True):
            yield one
            watch.progress(Progress(phase=phase, done=group.first + len(group.rows), total=len(gauge.rows), unit="texts"))

    return read
