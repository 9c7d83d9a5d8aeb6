"""Tokenising many texts by their words, each distinct word once: several times faster, and the same tokens.

Nearly every tokenizer splits a text before a space between two words and around special tokens before it does anything else,
so that the tokens of a text are the tokens of its words one after the other. Where that does not hold, a sample shows it,
and the caller goes the plain way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from tunesmith.data.text_tokens import TextTokenizer

MIN_TEXTS = 5_000
MIN_CHARACTERS = 2_000_000
"""Below both of these the plain way is fast enough."""
SAMPLE_CHARACTERS = 100_000
SAMPLE_TEXTS = 200
"""Most that are looked at of the texts that are tokenised at one time."""
MAX_WORDS = 300_000
TEXTS_AT_ONCE = 5_000
_BETWEEN_WORDS = re.compile(r"(?<=\S) (?=\S)")


def encode(texts: Sequence[str], words: WordTokens) -> Iterator[list[int]]:
    """The token ids of each text, in order, without the tokens that the model expects around a text."""
    if _are_many(texts) and words.agrees(texts):
        yield from words.encode(texts)
    else:
        yield from (encoding.ids for encoding in words.tokens.encode(texts, special=False))


def encode_cut(texts: Sequence[str], words: WordTokens, max_length: int) -> Iterator[tuple[list[int], bool]]:
    """The token ids of each text between the model's own tokens, at most `max_length`, and whether the text was cut."""
    before, behind = words.tokens.around()
    room = max_length - len(before) - len(behind)
    if _are_many(texts) and room > 0 and words.agrees(texts):
        for ids in words.encode(texts):
            yield [*before, *ids[:room], *behind], len(ids) > room
        return
    for encoding in words.tokens.encode_cut(texts, max_length):
        yield encoding.ids, len(encoding) == max_length and bool(encoding.overflowing)


def _are_many(texts: Sequence[str]) -> bool:
    return len(texts) >= MIN_TEXTS or sum(map(len, texts)) >= MIN_CHARACTERS


class WordTokens:
    """Token ids of texts by way of their words, which are remembered."""

    def __init__(self, tokens: TextTokenizer) -> None:
        self.tokens = tokens
        specials = sorted(tokens.special_texts, key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, specials)) + ")" if specials else r"(?!)")
        self._starts = _Known(tokens, "")
        self._words = _KnownPlain(tokens, " ")
        self._others = _Known(tokens, " ")

    def agrees(self, texts: Sequence[str]) -> bool:
        """Whether the way by words gives the very tokens of the plain way for a sample of the texts."""
        sample = sample_of(texts)
        plain = self.tokens.encode(sample, special=False)
        return all(ids == encoding.ids for ids, encoding in zip(self.encode(sample), plain, strict=True))

    def encode(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The token ids of each text, in order, without the tokens that the model expects around a text."""
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            split = [self._special.split(text) for text in texts[start : start + TEXTS_AT_ONCE]]
            counts = Counter(chain.from_iterable(split))
            for parts in split:
                ids: list[int] = []
                for part in parts:
                    # What stands in many texts (a template's own words) is one word.
                    ids += self._starts[part] if counts[part] > 1 else self._encode_part(part)
                yield ids

    def _encode_part(self, part: str) -> list[int]:
        """The token ids of a text without special tokens."""
        first, *words = part.split(" ")
        try:
            if not words or (first and not first[-1].isspace()):
                return [*self._starts[first], *chain.from_iterable(map(self._words.__getitem__, words))]
        except KeyError:  # one with white space at its edge
            pass
        first, *words = _BETWEEN_WORDS.split(part)
        return [*self._starts[first], *chain.from_iterable(map(self._others.__getitem__, words))]


class _Known(dict[str, list[int]]):
    """Token ids by word; a new word is looked up when it is first asked for."""

    def __init__(self, tokens: TextTokenizer, before: str) -> None:
        super().__init__()
        self._engine, self._before = tokens.engine, before

    def __missing__(self, word: str) -> list[int]:
        if len(self) >= MAX_WORDS:
            self.clear()
        ids = self[word] = self._engine.encode(self._before + word, add_special_tokens=False).ids
        return ids


class _KnownPlain(_Known):
    """Token ids of words that have no white space at their edges; others are a KeyError."""

    def __missing__(self, word: str) -> list[int]:
        if not word or word[0].isspace() or word[-1].isspace():
            raise KeyError(word)
        return super().__missing__(word)


def sample_of(texts: Sequence[str]) -> list[str]:
    """Texts from all over, 200 at most, and not many more than 100,000 characters."""
    average = max(1, sum(map(len, texts)) // max(1, len(texts)))
    count = max(1, min(SAMPLE_TEXTS, SAMPLE_CHARACTERS // average))
    return list(texts[:: max(1, len(texts) // count)])
