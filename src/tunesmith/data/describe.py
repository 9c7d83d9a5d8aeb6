"""What was done with the data, in sentences to be said aloud."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.data.examples import Task
from tunesmith.data.raw import RawTable, Skipped

if TYPE_CHECKING:
    from tunesmith.data.convert import Converted
    from tunesmith.data.prepared import Part
    from tunesmith.data.split import Splits
    from tunesmith.data.tokenise import Losses

REASONS_SHOWN = 3


def reading(table: RawTable, what: str, left_out: Sequence[Skipped]) -> list[str]:
    """How the rows were read, `what` they were read as, and which were skipped."""
    count = len(table) + len(table.broken)
    files = f" from {len(table.files):,} files" if len(table.files) > 1 else ""
    sentence = f"read {count:,} rows{files} as {what}"
    if left_out:
        rows = "1 row" if len(left_out) == 1 else f"{len(left_out):,} rows"
        sentence += f"; {rows} skipped: {skipped(left_out, table)}"
    return [*table.notes, sentence]


def skipped(left_out: Sequence[Skipped], table: RawTable) -> str:
    """Rows by reason, the most frequent first: 'rows 17, 203 ... empty answer; row 5 no label'."""
    counts = Counter(item.reason for item in left_out).most_common()
    shown = [
        f"{table.say_rows([item.row for item in left_out if item.reason == reason], show=2)} {reason}"
        for reason, _ in counts[:REASONS_SHOWN]
    ]
    if len(counts) > REASONS_SHOWN:
        shown.append(f"{sum(count for _, count in counts[REASONS_SHOWN:]):,} more for other reasons")
    return "; ".join(shown)


def parts(split: Sequence[Part], splits: Splits, labels: Sequence[str]) -> list[str]:
    """How many rows train, choose the best checkpoint and test, and how the classes are spread."""
    train, validation, test = (part.num_origins for part in split)
    near = f"; {splits.num_near:,} near-identical rows stay together" if splits.num_near and not splits.group_was_cut else ""
    sentences = [f"{train:,} to train on, {validation:,} to choose the best checkpoint, {test:,} to test{near}"]
    if labels:
        counts = np.sum([np.bincount(part.tokens.labels, minlength=len(labels)) for part in split], axis=0).tolist()
        total = max(1, sum(counts))
        shown = ", ".join(f"{name} {100 * count / total:.1f} %" for name, count in zip(labels[:8], counts, strict=False))
        sentences.append(f"{len(labels):,} classes: {shown}{', ...' if len(labels) > 8 else ''}")
    return sentences


def tokens(task: Task, split: Sequence[Part], max_length: int, notes: Sequence[str]) -> list[str]:
    """How many tokens carry loss, and how long rows are."""
    table = split[0].tokens
    longest = int(table.lengths.max()) if len(table) else 0
    rows = f"longest row {longest:,} of at most {max_length:,}"
    if task == "classification":
        return [*notes, f"{table.num_tokens:,} tokens to train on, {rows}"]
    return [*notes, f"{table.num_tokens:,} tokens to train on, {table.num_labelled:,} of them with loss, {rows}"]


def losses(result: Losses, converted: Converted, max_length: int, name: str) -> list[str]:
    """Warnings about rows cut or skipped, if they are more than a few."""
    from tunesmith.data.prepare import WARN_CUT_SHARE, WARN_SKIPPED_SHARE

    warnings = []
    count = max(1, len(converted.examples))
    total = count + len(converted.skipped)
    for what, cut, wanted in (
        ("answers", result.num_cut_answers, result.wanted_length),
        ("texts", result.num_cut_texts, 0),
    ):
        if cut > WARN_CUT_SHARE * count:
            fits = f"; 99 % fit in --max-length {wanted}" if wanted > max_length else ""
            warnings.append(
                f"{cut:,} of {count:,} {what} of {name} ({100 * cut / count:.0f} %) are cut off at {max_length:,} tokens{fits}"
            )
    lost = len(converted.skipped) + len(result.refused)
    if lost > WARN_SKIPPED_SHARE * total:
        warnings.append(f"{lost:,} of {total:,} rows of {name} ({100 * lost / total:.0f} %) cannot be used")
    return warnings
