"""What held-out rows say of a model: metrics with intervals, answers to show, and how much it forgot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
from tunesmith.evaluation.retention import Row, general_rows
from tunesmith.measure import Measure
from tunesmith.model import anatomy, virtual_tokens
from tunesmith.model.batch import Batch
from tunesmith.model.forward import Forward
from tunesmith.model.source import Source
from tunesmith.watch import Progress, Watch

EVALUATION_TOKENS = 2048  # in one pass without gradients
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
    beginning = pack(table, np.arange(1), num_shared=shared).to(device).beginning if shared else None
    with virtual_tokens.made_once(forward.model, beginning):
        for rows in in_order_of_length(table, EVALUATION_TOKENS):
            batch = pack(table, rows, num_shared=shared).to(device)
            losses[rows], counts[rows], predicted[rows] = _of_rows(forward, batch)
            done += len(rows)
            watch.progress(Progress(phase=phase, done=done, total=len(table), unit="rows"))
    if not table.labels_per_row:
        return Scores(losses, counts, part.origins)
    return Scores(losses, counts, part.origins, predicted, table.labels.astype(np.int64))


@torch.no_grad()
def _of_rows(forward: Forward, batch: Batch) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each row: its summed loss, the number of its targets, and the class that is predicted (0 where there are none)."""
    none = np.zeros(batch.num_rows, dtype=np.int64)
    if batch.positions is None:
        logits = forward.class_logits(batch)
        each = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
        return each.double().cpu().numpy(), none + 1, logits.argmax(-1).cpu().numpy()
    if not batch.num_targets:
        return none.astype(np.float64), none, none
    each, owner = forward.target_losses(batch).double().cpu().numpy(), batch.row_of_target().cpu().numpy()
    sums = np.bincount(owner, each, minlength=len(none)).astype(np.float64)
    return sums, np.bincount(owner, minlength=len(none)).astype(np.int64), none


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


def outputs(
    forward: Forward, gauge: LanguageGauge | EncoderGauge, watch: Watch, phase: str
) -> Callable[[Sequence[Row]], Iterator[Tensor]]:
    """The model as the gauge sees it, for one pass over its rows."""
    take = forward.token_logits if isinstance(gauge, LanguageGauge) else forward.mean_states
    device, done, total = anatomy.device_of(forward.model), 0, len(gauge.rows)
    watch.progress(Progress(phase=phase, done=0, total=total, unit="texts"))

    def run(rows: Sequence[Row]) -> Iterator[Tensor]:
        nonlocal done
        forward.model.eval()
        ids = torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(device)
        with torch.no_grad():
            yield take(Batch(input_ids=ids, lengths=[len(row) for row in rows], targets=ids[:0]))
        done += len(rows)
        watch.progress(Progress(phase=phase, done=done, total=total, unit="texts"))

    return run
