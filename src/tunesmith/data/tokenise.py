"""Examples to token rows, with the loss exactly where it belongs."""

from __future__ import annotations

import contextlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.examples import Chat, Example, Labelled, SourceTarget, Task, Text
from tunesmith.data.parallel import ROWS_AT_ONCE, in_blocks
from tunesmith.data.table import TableBuilder, TokenTable, offsets_of
from tunesmith.data.text_tokens import TextTokenizer, TokenColumns
from tunesmith.data.word_tokens import WordTokens, encode, encode_cut
from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_CHARACTERS = 200_000
"""Longer texts are tokenised in parts, cut where a line or at least a word ends."""
COUNT = "{count}"
"""Stands in a note for the number of examples that it is about."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What was lost on the way to token rows, and what is worth knowing of it."""

    num_cut_texts: int = 0
    """Texts to be read (to be classified, or a source) that the maximum length cut."""
    num_cut_answers: int = 0
    """Examples of which the maximum length cut off some of what carries loss."""
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(examples,) how long each would have been, where the length cuts off what carries loss; else empty."""
    refused: dict[int, str] = field(default_factory=dict)
    """Why examples gave no row, by their index."""
    counts: dict[str, int] = field(default_factory=dict)
    """What is worth knowing about the template or the tokens, and how many examples show it; perhaps none."""
    template: str | None = None
    """Source of the chat template that was used."""

    @property
    def wanted_length(self) -> int:
        """The maximum length at which 99 % of the examples would not be cut, in tokens."""
        return int(np.quantile(self.lengths, 0.99, method="higher")) if len(self.lengths) else 0

    @property
    def notes(self) -> list[str]:
        """What is worth knowing, in sentences."""
        return [note.replace(COUNT, f"{count:,}") for note, count in self.counts.items() if count]


@dataclass(frozen=True, kw_only=True)
class Tokenised(Losses):
    """Token rows and what was lost on the way."""

    table: TokenTable
    kept: NDArray[np.int64]
    """(rows,) which example each row came from; a long text gives several rows, an unusable example none."""


Tokenise = Callable[[Sequence[Example]], Tokenised]


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
    with tokenising(tokenizer, task=task, max_length=max_length, labels=labels) as work:
        return work(examples)


@contextlib.contextmanager
def tokenising(
    tokenizer: PreTrainedTokenizerBase, *, task: Task, max_length: int, labels: Sequence[str] = ()
) -> Iterator[Tokenise]:
    """The same for one part of the examples after the other, with what is learnt of the words kept in between.

    Raises:
        ModelError: As `tokenise`.
    """
    tokens = TextTokenizer(tokenizer)
    words = WordTokens(tokens)
    if task == "chat":
        from tunesmith.data.chat_tokens import tokenising_chats

        with tokenising_chats(tokenizer, words, max_length) as work:
            yield lambda examples: work([example for example in examples if isinstance(example, Chat)])
    elif task == "classification":
        yield lambda found: _classification([e for e in found if isinstance(e, Labelled)], words, max_length, labels)
    elif tokens.eos_id is None:
        raise ModelError("The model's tokenizer has no end-of-text token, so a model cannot learn where a text ends.")
    elif task == "text":
        yield lambda found: _texts([e for e in found if isinstance(e, Text)], words, max_length)
    else:
        yield lambda found: _pairs([e for e in found if isinstance(e, SourceTarget)], words, max_length)


def tokenise_apart(
    examples: Sequence[Example], part_of: NDArray[np.int8], prepared: Callable[[], AbstractContextManager[Tokenise]]
) -> tuple[list[tuple[TokenTable, NDArray[np.int64]]], Losses]:
    """The examples of each part as a table, with the example that each of its rows came from, and what was lost in all.

    Tables grow block by block, so that no row is in memory twice.

    Args:
        examples: At least one.
        part_of: (examples,) the part of each.
        prepared: `tokenising`, with its arguments.

    Raises:
        ModelError: As `tokenise`.
    """
    num_parts = int(part_of.max(initial=0)) + 1
    tables, kept = [TableBuilder() for _ in range(num_parts)], [array("q") for _ in range(num_parts)]
    losses: list[Losses] = []
    for start, block in zip(
        range(0, len(examples), ROWS_AT_ONCE), in_blocks(len(examples), lambda: _of_blocks(examples, prepared)), strict=True
    ):
        code_of_row = part_of[start + block.kept]
        for code in range(num_parts):
            chosen = np.flatnonzero(code_of_row == code)
            tables[code].add(block.table.select(chosen))
            kept[code].frombytes((start + block.kept[chosen]).tobytes())
        losses.append(replace(block, table=block.table.select([]), kept=block.kept[:0]))
    parts = [(table.build(), np.array(own, dtype=np.int64)) for table, own in zip(tables, kept, strict=True)]
    return parts, _together(losses)


@contextlib.contextmanager
def _of_blocks(
    examples: Sequence[Example], prepared: Callable[[], AbstractContextManager[Tokenise]]
) -> Iterator[Callable[[slice], Tokenised]]:
    with prepared() as work:
        yield lambda block: work(examples[block])


def _together(blocks: Sequence[Losses]) -> Losses:
    """What was lost in all blocks."""
    counts: Counter[str] = Counter()
    for block in blocks:
        counts.update(block.counts)
    first = range(0, len(blocks) * ROWS_AT_ONCE, ROWS_AT_ONCE)
    return Losses(
        num_cut_texts=sum(block.num_cut_texts for block in blocks),
        num_cut_answers=sum(block.num_cut_answers for block in blocks),
        lengths=np.concatenate([block.lengths for block in blocks]),
        refused={s + index: why for s, block in zip(first, blocks, strict=True) for index, why in block.refused.items()},
        counts=dict(counts),
        template=blocks[0].template,
    )


def _classification(examples: Sequence[Labelled], words: WordTokens, max_length: int, labels: Sequence[str]) -> Tokenised:
    """Texts or pairs between the model's own special tokens; the longer text of a pair is cut first."""
    tokens, ids = words.tokens, {name: index for index, name in enumerate(labels)}
    columns, types, num_cut_texts = TokenColumns(tokens), bytearray(), 0
    paired = any(example.pair is not None for example in examples)
    if paired:
        inputs = [example.text if example.pair is None else (example.text, example.pair) for example in examples]
        for encoding in tokens.encode_cut(inputs, max_length):
            columns.add(encoding.ids)
            types.extend(encoding.type_ids)
            num_cut_texts += len(encoding) == max_length and bool(encoding.overflowing)
    else:
        for row, is_cut in encode_cut([example.text for example in examples], words, max_length):
            columns.add(row)
            num_cut_texts += is_cut
    table = TokenTable(
        input_ids=columns.ids(),
        labels=np.fromiter((ids[e.label] for e in examples), dtype=np.int32, count=len(examples)),
        offsets=offsets_of(columns.lengths()),
        token_types=np.frombuffer(bytes(types), dtype=np.int8) if tokens.wants_types and paired else None,
        labels_per_row=True,
    )
    return Tokenised(table=table, kept=np.arange(len(examples)), num_cut_texts=num_cut_texts)


def _texts(examples: Sequence[Text], words: WordTokens, max_length: int) -> Tokenised:
    """Documents ended by EOS, in windows of equal length; the loss is on every token but a row's first."""
    tokens = words.tokens
    assert tokens.eos_id is not None
    parts = [_parts(example.text) for example in examples]
    counts = [len(pieces) for pieces in parts]
    encoded = encode([piece for pieces in parts for piece in pieces], words)
    columns, lengths = TokenColumns(tokens), []
    for count in counts:
        ids = [] if tokens.bos_id is None else [tokens.bos_id]
        for _ in range(count):
            ids.extend(next(encoded))
        columns.add([*ids, tokens.eos_id])
        lengths.append(len(ids) + 1)
    windows = [-(-length // max_length) for length in lengths]
    offsets = offsets_of(np.concatenate([_equal(n, k) for n, k in zip(lengths, windows, strict=True)]) if lengths else [])
    learnt = np.ones(columns.num_tokens, dtype=np.bool_)
    learnt[offsets[:-1]] = False
    table = TokenTable(columns.ids(), np.zeros(0, dtype=np.int32), offsets, learnt=learnt)
    note = f"{COUNT} texts longer than {max_length:,} tokens are read in several windows; nothing is cut"
    num_long = sum(count > 1 for count in windows)
    return Tokenised(table=table, kept=np.repeat(np.arange(len(examples)), windows), counts={note: num_long})


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


def _pairs(examples: Sequence[SourceTarget], words: WordTokens, max_length: int) -> Tokenised:
    """Sources as the encoder wants them, and targets ended by EOS."""
    eos_id = words.tokens.eos_id
    assert eos_id is not None
    sources, targets = TokenColumns(words.tokens), TokenColumns(words.tokens)
    num_cut_texts, num_cut_answers, lengths = 0, 0, []
    for row, is_cut in encode_cut([example.source for example in examples], words, max_length):
        sources.add(row)
        num_cut_texts += is_cut
    for row in encode([example.target for example in examples], words):
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
        num_cut_texts=num_cut_texts,
        num_cut_answers=num_cut_answers,
        lengths=np.array(lengths, dtype=np.int64),
    )
