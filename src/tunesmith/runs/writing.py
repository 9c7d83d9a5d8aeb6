"""What the model writes for held-out rows, before and after training: some of it to read, and for pairs enough to measure."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.data.examples import SourceTarget
from tunesmith.data.prepared import Part
from tunesmith.evaluation import likeness, showcase
from tunesmith.evaluation.difference import Difference, compare_accuracy, compare_means
from tunesmith.evaluation.generate import Generation
from tunesmith.measure import Measure
from tunesmith.runs import answers
from tunesmith.watch import Progress, Watch

NUM_SHOWN = 6  # held-out rows shown before and after
SHOWN = Generation(max_new_tokens=96)
NUM_MEASURED = 100  # of sources and targets: an exact match is known to 10 percentage points
MOST_MORE_TOKENS = 64  # than the longest target has; an answer that has not ended by then is wrong in any case


def rows_to_answer(task: str, part: Part) -> list[int]:
    """Rows of a part, to read or to measure, drawn before any result is known; none where the task is not to write."""
    wanted = NUM_SHOWN if task == "chat" else 0
    return rows_to_measure(part) or showcase.choose_blindly(len(part.examples), wanted)


def rows_to_measure(part: Part) -> list[int]:
    """Rows whose answers are compared with their targets; none where rows have no target."""
    return [] if part.tokens.target_ids is None else showcase.choose_blindly(len(part.examples), NUM_MEASURED)


def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, part: Part, rows: Sequence[int], watch: Watch
) -> list[str]:
    """Greedy answers to some rows of a part; one that did not end by itself ends in an ellipsis."""
    if part.tokens.target_ids is None:
        return [str(answer) for answer in answers.write(model, tokenizer, [part.examples[row] for row in rows], SHOWN)]
    sources, targets = zip(*(part.tokens.row(row) for row in rows), strict=True)
    longest = max(map(len, targets))
    limit = longest + min(longest, MOST_MORE_TOKENS)
    watch.say(f"writing answers to {len(rows):,} of {len(part.examples):,} held-out rows, of at most {limit} tokens")
    written = answers.translate(
        model,
        tokenizer,
        sources,
        Generation(max_new_tokens=limit),
        lambda done, total: watch.progress(Progress(phase="writing answers", done=done, total=total, unit="rows")),
    )
    return [str(answer) for answer in written]


def measures(part: Part, rows: Sequence[int], written: Sequence[str]) -> dict[str, Measure]:
    """ROUGE-L and exact match with 95 % intervals, where the rows have a target; the answers of a chat are only shown."""
    expected = _targets(part, rows)
    return likeness.likeness(written, expected) if expected else {}


def differences(part: Part, rows: Sequence[int], before: Sequence[str], after: Sequence[str]) -> list[Difference]:
    """What changed between two sets of answers to the same rows."""
    expected = _targets(part, rows)
    if not expected:
        return []
    scores = [likeness.rouge_l(written, expected) for written in (before, after)]
    matches = [likeness.exact_matches(written, expected) for written in (before, after)]
    return [compare_means("rouge_l", *scores), compare_accuracy(*matches, metric="exact_match")]


def _targets(part: Part, rows: Sequence[int]) -> list[str]:
    examples = [part.examples[row] for row in rows]
    return [example.target for example in examples if isinstance(example, SourceTarget)]
