"""Conversations to token rows: the loss on the answers and the token that ends them, and on nothing else."""

from __future__ import annotations

import contextlib
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.data.chat_text import ChatText, ChatWriter
from tunesmith.data.examples import Chat
from tunesmith.data.table import TokenTable, offsets_of
from tunesmith.data.template import PLAIN_TEMPLATE, ChatTemplate, Refusal
from tunesmith.data.text_tokens import TextTokenizer, TokenColumns
from tunesmith.data.tokenise import COUNT, Tokenised
from tunesmith.data.word_tokens import MIN_TEXTS, WordTokens
from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

TAIL_CHARACTERS = 200
CHATS_AT_ONCE = 10_000
SAMPLE_TEXTS = 200
Places = list[tuple[int, int]]
"""First and one past the last token of each answer; (0, 0) if it has none."""


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


@contextlib.contextmanager
def tokenising_chats(
    tokenizer: PreTrainedTokenizerBase, words: WordTokens, max_length: int
) -> Iterator[Callable[[Sequence[Chat]], Tokenised]]:
    """Conversations in the model's own format; what stands behind the last answer is left away."""
    template, writer = chat_writer(tokenizer, words.tokens)
    with template:
        is_plain = chat_template_of(tokenizer) is None
        work = _ChatTokeniser(words.tokens, writer, _Locator(words), max_length, is_plain, template.source)
        yield work.tokenise


@dataclass
class _ChatTokeniser:
    """Tokenises conversations, one part of them after the other."""

    tokens: TextTokenizer
    writer: ChatWriter
    locator: _Locator
    max_length: int
    is_plain: bool
    """Whether the model has no chat template of its own."""
    source: str
    """Of the template that is used."""

    def tokenise(self, chats: Sequence[Chat]) -> Tokenised:
        """The token rows of some conversations."""
        rows = _Rows(self.tokens, self.max_length)
        refused: dict[int, str] = {}
        kept = array("q")
        self.locator.expect(len(chats))
        # In batches, because the text of all rows is several times as large as their tokens.
        for start in range(0, len(chats), CHATS_AT_ONCE):
            written = list(enumerate(self.writer.write(chats[start : start + CHATS_AT_ONCE]), start))
            refused |= {index: item.reason for index, item in written if isinstance(item, Refusal)}
            texts = [(index, item) for index, item in written if isinstance(item, ChatText)]
            for (index, _), (ids, places) in zip(texts, self.locator.locate([item for _, item in texts]), strict=True):
                if rows.add(ids, places):
                    kept.append(index)
                else:
                    refused[index] = f"the prompt alone fills the {self.max_length:,} tokens of a row"
        return Tokenised(
            table=rows.build(), kept=np.array(kept, dtype=np.int64), num_cut_answers=rows.num_cut_answers,
            lengths=np.array(rows.lengths, dtype=np.int64), refused=refused, counts=self._counts(chats), template=self.source,
        )  # fmt: skip

    def _counts(self, chats: Sequence[Chat]) -> dict[str, int]:
        """What is worth knowing about the template and the special tokens in the texts."""
        eos, writer = self.tokens.eos, self.writer
        special = re.compile("|".join(re.escape(text) for text in self.tokens.special_texts if len(text) > 3) or r"(?!)")
        return {
            "the model has no chat template; using plain headings "
            f"(### User: ### Assistant:), {eos} after each answer": self.is_plain,
            "the chat template has no place for a system turn; its text stands before the first question": writer.merges_system,
            f"the chat template does not end an answer; {eos} is put there, so that the model "
            "learns to stop": not writer.ends_turns and not self.is_plain,
            f"{COUNT} conversations contain the text of special tokens, which the model reads as such": sum(
                any(special.search(message.content) for message in chat.messages) for chat in chats
            ),
        }


class _Rows:
    """Collects token rows and the places of their labels."""

    def __init__(self, tokens: TextTokenizer, max_length: int) -> None:
        self._max_length = max_length
        self._columns = TokenColumns(tokens)
        self._borders = array("q")
        self.lengths = array("q")
        self.num_cut_answers = 0

    def add(self, ids: list[int], places: Places) -> bool:
        """Append a row with the places of its answers, unless nothing of it would carry loss."""
        most = self._max_length
        self.lengths.append(len(ids))
        # The first token of a row is never predicted.
        inside = [(max(1, start), min(end, most)) for start, end in places if max(1, start) < min(end, most)]
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
        learnt = np.cumsum(change, dtype=np.int8, out=change)[:-1] > 0
        return TokenTable(ids, np.zeros(0, dtype=np.int32), offsets_of(self._columns.lengths()), learnt=learnt)


class _Locator:
    """Finds the tokens of the answers."""

    def __init__(self, words: WordTokens) -> None:
        self._tokens, self._words = words.tokens, words
        self._agreed = True
        self._by_words = False
        self._special = re.compile("|".join(map(re.escape, words.tokens.special_texts)) or r"(?!)")
        self._tails: dict[str, list[int]] = {}

    def expect(self, count: int) -> None:
        """Prepare for `count` more texts: by words, if they are many and words have agreed so far."""
        self._by_words = self._agreed and count >= MIN_TEXTS

    def locate(self, texts: Sequence[ChatText]) -> Iterator[tuple[list[int], Places]]:
        """Token ids and places of the answers of each text, in order."""
        single = [item for item in texts if len(item.spans) == 1]
        if self._by_words:
            self._agreed = self._by_words = self._agrees(single)
        others = texts if not self._by_words else [item for item in texts if len(item.spans) > 1]
        encodings = self._tokens.encode([item.text for item in others], special=False, places=True)
        apart = self._words.encode([part for item in single for part in _apart(item)] if self._by_words else [])
        for item in texts:
            if self._by_words and len(item.spans) == 1:
                yield _joined(next(apart), next(apart))
            else:
                yield self._locate(item, next(encodings))

    def _agrees(self, texts: Sequence[ChatText]) -> bool:
        """Whether prompts and answers tokenised apart, by words, give what the plain way gives, for a sample."""
        sample = texts[:: max(1, len(texts) // SAMPLE_TEXTS)]
        apart = self._words.encode([part for item in sample for part in _apart(item)])
        encodings = self._tokens.encode([item.text for item in sample], special=False, places=True)
        plain = (self._locate(item, encoding) for item, encoding in zip(sample, encodings, strict=True))
        return all(located == _joined(next(apart), next(apart)) for located in plain)

    def _locate(self, item: ChatText, encoding: Encoding) -> tuple[list[int], Places]:
        """Token ids of one text and the places of its answers."""
        places = [_tokens_inside(encoding, start, end) for start, end in item.spans]
        if self._prompt_is_prefix(item, encoding, places[-1]):
            return encoding.ids, places
        return self._answer_apart(item)

    def _prompt_is_prefix(self, item: ChatText, encoding: Encoding, place: tuple[int, int]) -> bool:
        """Whether the tokens before the last answer are those that the model gets at inference, when no answer follows yet."""
        tail = self._tail(item.text, item.spans[-1][0])
        alone = self._tails.get(tail)
        if alone is None:
            alone = self._tokens.engine.encode(tail, add_special_tokens=False).ids[-2:]
            self._tails[tail] = alone
        return place[1] > 0 and encoding.ids[max(0, place[0] - len(alone)) : place[0]] == alone

    def _tail(self, text: str, start: int) -> str:
        """The text from the last special token (or the last line) before the answer; what is earlier changes no token there."""
        window = text[max(0, start - TAIL_CHARACTERS) : start]
        specials = [match.start() for match in self._special.finditer(window)]
        return window[specials[-1] if specials else max(0, window.rstrip().rfind("\n")) :]

    def _answer_apart(self, item: ChatText) -> tuple[list[int], Places]:
        """Tokens and places with the last answer tokenised apart from its prompt."""
        start, end = item.spans[-1]
        engine = self._tokens.engine
        prompt = engine.encode(item.text[:start], add_special_tokens=False)
        answer = engine.encode(item.text[start:end], add_special_tokens=False).ids
        places = [_tokens_inside(prompt, *span) for span in item.spans[:-1]]
        return prompt.ids + answer, [*places, (len(prompt), len(prompt) + len(answer))]


def _apart(item: ChatText) -> tuple[str, str]:
    """The prompt and the only answer."""
    start = item.spans[0][0]
    return item.text[:start], item.text[start:]


def _joined(prompt: list[int], answer: list[int]) -> tuple[list[int], Places]:
    """The tokens of both and the place of the answer."""
    return prompt + answer, [(len(prompt), len(prompt) + len(answer))]


def _tokens_inside(encoding: Encoding, start: int, end: int) -> tuple[int, int]:
    """First and one past the last token that lie within the characters; (0, 0) if none does."""
    first = next((t for t in (encoding.char_to_token(i) for i in range(start, end)) if t is not None), None)
    last = next((t for t in (encoding.char_to_token(i) for i in range(end - 1, start - 1, -1)) if t is not None), None)
    if first is None or last is None:
        return 0, 0
    ends = encoding.token_to_chars(last)
    # Several tokens can share one character (an emoji in bytes): take all of them.
    while last + 1 < len(encoding) and encoding.token_to_chars(last + 1) == ends:
        last += 1
    begins = encoding.token_to_chars(first)
    first += begins is not None and begins[0] < start
    last -= ends is not None and ends[1] > end
    return (first, last + 1) if first <= last else (0, 0)
