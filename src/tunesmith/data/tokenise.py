"""Examples to token rows, with the loss exactly where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.examples import Chat, Example, Labelled, SourceTarget, Task, Text
from tunesmith.data.table import IGNORED, TokenTable, offsets_of
from tunesmith.data.text_tokens import TextTokenizer, TokenColumns
from tunesmith.data.word_tokens import encode, encode_cut
from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_CHARACTERS = 200_000
"""Longer texts are tokenised in parts, cut where a line or at least a word ends."""


@dataclass(frozen=True, kw_only=True)
class Tokenised:
    """Token rows and what was lost on the way."""

    table: TokenTable
    kept: NDArray[np.int64]
    """(rows,) which example each row came from; a long text gives several rows, an unusable example none."""
    num_cut: int = 0
    """Examples that are longer than the maximum length."""
    num_cut_answers: int = 0
    """Examples of which the maximum length cut off some of what carries loss."""
    wanted_length: int = 0
    """The maximum length at which 99 % of the examples would not be cut, in tokens."""
    refused: dict[int, str] = field(default_factory=dict)
    """Why examples gave no row, by their index."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing about the template or the tokens."""
    template: str | None = None
    """Source of the chat template that was used."""


def tokenise(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, task: Task, max_length: int, labels: Sequence[str] = ()
) -> Tokenised:
    """The examples as token rows of at most `max_length` tokens.

    Args:
        examples: All of the form that belongs to the task.
        tokenizer: The model's.
        task: 'chat', 'classification', 'text' or 'seq2seq'.
        max_length: Most tokens of a row (for seq2seq: of the source, and of the target).
        labels: Class names in the order of their ids, for classification.

    Raises:
        ModelError: If the tokenizer lacks what the task needs, or its chat template cannot be used.
    """
    tokens = TextTokenizer(tokenizer)
    if task == "chat":
        from tunesmith.data.chat_tokens import tokenise_chats

        return tokenise_chats([example for example in examples if isinstance(example, Chat)], tokenizer, tokens, max_length)
    if task == "classification":
        return _classification([example for example in examples if isinstance(example, Labelled)], tokens, max_length, labels)
    if tokens.eos_id is None:
        raise ModelError("The model's tokenizer has no end-of-text token, so a model cannot learn where a text ends.")
    if task == "text":
        return _texts([example for example in examples if isinstance(example, Text)], tokens, max_length, tokens.eos_id)
    return _pairs([example for example in examples if isinstance(example, SourceTarget)], tokens, max_length, tokens.eos_id)


def _classification(examples: Sequence[Labelled], tokens: TextTokenizer, max_length: int, labels: Sequence[str]) -> Tokenised:
    """Texts or pairs between the model's own special tokens; the longer text of a pair is cut first."""
    ids = {name: index for index, name in enumerate(labels)}
    columns, types, num_cut = TokenColumns(), bytearray(), 0
    paired = any(example.pair is not None for example in examples)
    if paired:
        inputs = [example.text if example.pair is None else (example.text, example.pair) for example in examples]
        for encoding in tokens.encode_cut(inputs, max_length):
            columns.add(encoding.ids)
            types.extend(encoding.type_ids)
            num_cut += len(encoding) == max_length and bool(encoding.overflowing)
    else:
        for row, is_cut in encode_cut([example.text for example in examples], tokens, max_length):
            columns.add(row)
            num_cut += is_cut
    table = TokenTable(
        input_ids=columns.ids(),
        labels=np.fromiter((ids[e.label] for e in examples), dtype=np.int32, count=len(examples)),
        offsets=offsets_of(columns.lengths()),
        token_types=np.frombuffer(bytes(types), dtype=np.int8) if tokens.wants_types and paired else None,
        labels_per_row=True,
    )
    return Tokenised(table=table, kept=np.arange(len(examples)), num_cut=num_cut)


def _texts(examples: Sequence[Text], tokens: TextTokenizer, max_length: int, eos_id: int) -> Tokenised:
    """Documents ended by EOS, in windows of equal length; the loss is on every token but a row's first."""
    parts = [_parts(example.text) for example in examples]
    counts = [len(pieces) for pieces in parts]
    encoded = encode([piece for pieces in parts for piece in pieces], tokens)
    columns, lengths = TokenColumns(), []
    for count in counts:
        ids = [] if tokens.bos_id is None else [tokens.bos_id]
        for _ in range(count):
            ids.extend(next(encoded))
        columns.add([*ids, eos_id])
        lengths.append(len(ids) + 1)
    windows = [-(-length // max_length) for length in lengths]
    offsets = offsets_of(np.concatenate([_equal(n, k) for n, k in zip(lengths, windows, strict=True)]) if lengths else [])
    labels = columns.ids().copy()
    labels[offsets[:-1]] = IGNORED
    table = TokenTable(input_ids=columns.ids(), labels=labels, offsets=offsets)
    num_long = sum(count > 1 for count in windows)
    notes = (
        [f"{num_long:,} texts longer than {max_length:,} tokens are read in several windows; nothing is cut"]
        if num_long
        else []
    )
    return Tokenised(table=table, kept=np.repeat(np.arange(len(examples)), windows), notes=notes)


def _equal(length: int, count: int) -> NDArray[np.int64]:
    """Lengths of `count` parts of `length` that differ by one at most."""
    return np.diff(np.arange(count + 1) * length // count)


def _parts(text: str) -> list[str]:
    """The text, in parts if it is very long."""
    parts, start = [], 0
    while len(text) - start > MAX_CHARACTERS:
        limit = start + MAX_CHARACTERS
        cut = max(text.rfind("\n", start + 1, limit), text.rfind(" ", limit - 1_000, limit))
        cut = cut if cut > start else limit
        parts.append(text[start:cut])
        start = cut
    return [*parts, text[start:]]


def _pairs(examples: Sequence[SourceTarget], tokens: TextTokenizer, max_length: int, eos_id: int) -> Tokenised:
    """Sources as the encoder wants them, and targets ended by EOS."""
    sources, targets = TokenColumns(), TokenColumns()
    num_cut, num_cut_answers, lengths = 0, 0, []
    for row, is_cut in encode_cut([example.source for example in examples], tokens, max_length):
        sources.add(row)
        num_cut += is_cut
    for row in encode([example.target for example in examples], tokens):
        ids = [*row, eos_id]
        lengths.append(len(ids))
        num_cut_answers += len(ids) > max_length
        targets.add(ids[:max_length])
    table = TokenTable(
        input_ids=sources.ids(),
        labels=np.zeros(0, dtype=np.int32),
        offsets=offsets_of(sources.lengths()),
        target_ids=targets.ids(),
        target_offsets=offsets_of(targets.lengths()),
    )
    return Tokenised(
        table=table,
        kept=np.arange(len(examples)),
        num_cut=num_cut,
        num_cut_answers=num_cut_answers,
        wanted_length=enough(lengths),
    )


def enough(lengths: Sequence[int]) -> int:
    """The length that 99 % of the rows do not exceed."""
    return int(np.quantile(lengths, 0.99, method="higher")) if len(lengths) else 0
