"""Conversations to token rows: the loss on the answers and the token that ends them, and on nothing else."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.data.chat_text import ChatText, ChatWriter
from tunesmith.data.examples import Chat
from tunesmith.data.table import IGNORED, TokenTable, offsets_of
from tunesmith.data.template import PLAIN_TEMPLATE, ChatTemplate, Refusal
from tunesmith.data.text_tokens import TextTokenizer, TokenColumns
from tunesmith.data.tokenise import Tokenised, enough
from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase


def chat_template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Source of the tokenizer's own chat template, None if it has none."""
    source = tokenizer.chat_template
    if isinstance(source, dict):
        source = source.get("default") or next(iter(source.values()), None)
    return source if isinstance(source, str) and source.strip() else None


def chat_writer(tokenizer: PreTrainedTokenizerBase, tokens: TextTokenizer | None = None) -> tuple[ChatTemplate, ChatWriter]:
    """The tokenizer's template, or the plain one, and what writes conversations with it; close the template after use.

    Raises:
        ModelError: If the tokenizer has neither a template nor an end-of-text token.
    """
    tokens = tokens or TextTokenizer(tokenizer)
    source = chat_template_of(tokenizer)
    if tokens.eos is None or tokens.eos_id is None:
        raise ModelError("The model's tokenizer has no end-of-text token, so a model cannot learn where an answer ends.")
    if source is None:
        begin = "{{ bos_token }}" if tokens.bos_id is not None else ""
        source = begin + PLAIN_TEMPLATE
    special = {name: str(text) for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
    template = ChatTemplate(source, special)
    return template, ChatWriter(template, tokens.special_texts, tokens.eos)


def tokenise_chats(
    chats: Sequence[Chat], tokenizer: PreTrainedTokenizerBase, tokens: TextTokenizer, max_length: int
) -> Tokenised:
    """Conversations in the model's own format; what stands behind the last answer is left away."""
    template, writer = chat_writer(tokenizer, tokens)
    with template:
        written = writer.write(chats)
    refused = {index: item.reason for index, item in enumerate(written) if isinstance(item, Refusal)}
    rows = _Rows(tokens, max_length)
    texts = [(index, item) for index, item in enumerate(written) if isinstance(item, ChatText)]
    encodings = tokens.encode([item.text for _, item in texts], special=False, places=True)
    kept = []
    for (index, item), encoding in zip(texts, encodings, strict=True):
        if rows.add(item, encoding):
            kept.append(index)
        else:
            refused[index] = f"the prompt alone fills the {max_length:,} tokens of a row"
    notes = _notes(chats, writer, tokens, chat_template_of(tokenizer) is None)
    return Tokenised(
        table=rows.build(), kept=np.asarray(kept, dtype=np.int64), num_cut=rows.num_cut, num_cut_answers=rows.num_cut_answers,
        wanted_length=enough(rows.lengths), refused=refused, notes=notes, template=template.source,
    )  # fmt: skip


class _Rows:
    """Collects token rows and the places of their labels."""

    def __init__(self, tokens: TextTokenizer, max_length: int) -> None:
        self._tokens, self._max_length = tokens, max_length
        self._columns = TokenColumns()
        self._borders = array("q")
        self.lengths = array("q")
        self.num_cut = 0
        self.num_cut_answers = 0

    def add(self, item: ChatText, encoding: Encoding) -> bool:
        """Append a row, unless nothing of it would carry loss."""
        ids, places = encoding.ids, []
        for start, end in item.spans:
            place = _token_range(encoding, start, end)
            if place is None:
                ids, places = self._by_pieces(item)
                break
            places.append(place)
        most = self._max_length
        self.lengths.append(len(ids))
        # The first token of a row is never predicted.
        inside = [(max(1, start), min(end, most)) for start, end in places if max(1, start) < min(end, most)]
        if len(ids) > most:
            self.num_cut += 1
            self.num_cut_answers += any(end > most for _, end in places)
        if not inside:
            return False
        before = self._columns.num_tokens
        self._columns.add(ids[:most])
        self._borders.extend(before + border for place in inside for border in place)
        return True

    def build(self) -> TokenTable:
        """The table of all rows."""
        ids = self._columns.ids()
        borders = np.frombuffer(self._borders, dtype=np.int64) if self._borders else np.zeros(0, dtype=np.int64)
        change = np.zeros(len(ids) + 1, dtype=np.int8)
        np.add.at(change, borders[::2], 1)
        np.subtract.at(change, borders[1::2], 1)
        labels = np.where(np.cumsum(change[:-1], dtype=np.int8) > 0, ids, np.int32(IGNORED))
        return TokenTable(input_ids=ids, labels=labels.astype(np.int32), offsets=offsets_of(self._columns.lengths()))

    def _by_pieces(self, item: ChatText) -> tuple[list[int], list[tuple[int, int]]]:
        """Prompt and answers tokenised apart, as at inference, where the answer's first character cannot join the prompt."""
        ids: list[int] = []
        places, position = [], 0
        for start, end in item.spans:
            ids += self._tokens.engine.encode(item.text[position:start], add_special_tokens=False).ids
            answer = self._tokens.engine.encode(item.text[start:end], add_special_tokens=False).ids
            places.append((len(ids), len(ids) + len(answer)))
            ids += answer
            position = end
        return ids, places


def _token_range(encoding: Encoding, start: int, end: int) -> tuple[int, int] | None:
    """First and one past the last token of the characters, None if a token lies across a border."""
    first = last = None
    for character in range(start, end):
        if (first := encoding.char_to_token(character)) is not None:
            break
    for character in range(end - 1, start - 1, -1):
        if (last := encoding.char_to_token(character)) is not None:
            break
    if first is None or last is None:
        return None
    begins, ends = encoding.token_to_chars(first), encoding.token_to_chars(last)
    if begins is None or ends is None or begins[0] < start or ends[1] > end:
        return None
    # Several tokens can share one character (an emoji in bytes): take all of them.
    while last + 1 < len(encoding) and encoding.token_to_chars(last + 1) == ends:
        last += 1
    return first, last + 1


def _notes(chats: Sequence[Chat], writer: ChatWriter, tokens: TextTokenizer, plain: bool) -> list[str]:
    """What is worth knowing about the template and the special tokens in the texts."""
    notes = []
    if plain:
        notes.append(
            f"the model has no chat template; using plain headings (### User: ### Assistant:), {tokens.eos} after each answer"
        )
    if writer.merges_system:
        notes.append("the chat template has no place for a system turn; its text stands before the first question")
    if not writer.ends_turns and not plain:
        notes.append(f"the chat template does not end an answer; {tokens.eos} is put there, so that the model learns to stop")
    special = re.compile("|".join(re.escape(text) for text in tokens.special_texts if len(text) > 3) or r"(?!)")
    num_special = sum(any(special.search(message.content) for message in chat.messages) for chat in chats)
    if num_special:
        notes.append(f"{num_special:,} conversations contain the text of special tokens, which the model reads as such")
    return notes
