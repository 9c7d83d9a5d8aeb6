"""A tokenizer as data preparation needs it: many texts at once into flat arrays, nothing cut, nothing padded."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

    Notice = Callable[[int, int], None]

TEXTS_AT_ONCE = 2_000
CHARACTERS_AT_ONCE = 1_000_000
"""Texts are handed over in batches of at most this size, because the library keeps some 200 bytes for each token of a batch."""


class TextTokenizer:
    """A private copy of a tokenizer's fast engine, so that its own settings for cutting and padding stay as they are."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Copy the engine.

        Raises:
            ModelError: If the tokenizer has none.
        """
        from tokenizers import Tokenizer

        engine = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(engine, Tokenizer):
            raise ModelError(
                f"The model's tokenizer ({type(tokenizer).__name__}) has no tokenizer.json. Save it in that form first."
            )
        self.engine: Tokenizer = Tokenizer.from_str(engine.to_str())
        self.engine.no_truncation()
        self.engine.no_padding()
        self.eos = str(tokenizer.eos_token) if tokenizer.eos_token is not None else None
        self.eos_id: int | None = self.engine.token_to_id(self.eos) if self.eos is not None else None
        self.bos_id = self._own_bos(tokenizer)
        self.special_texts = _special_texts(tokenizer)
        self.is_small = max(self.engine.get_vocab(with_added_tokens=True).values(), default=0) < 2**16
        """Whether 16 bits hold a token."""
        self.wants_types = "token_type_ids" in tokenizer.model_input_names

    def encode(
        self, texts: Sequence[str] | Sequence[str | tuple[str, str]], *, special: bool, places: bool = False
    ) -> Iterator[Encoding]:
        """The encoding of each text or pair, in order.

        Args:
            texts: Texts, or pairs of texts.
            special: Whether to add the tokens that the model expects around a text.
            places: Whether the encodings must know which characters their tokens came from.
        """
        encode = self.engine.encode_batch if places else self.engine.encode_batch_fast
        for batch in _batches(texts):
            yield from encode(batch, add_special_tokens=special)  # type: ignore[arg-type]

    def encode_cut(self, texts: Sequence[str] | Sequence[str | tuple[str, str]], max_length: int) -> Iterator[Encoding]:
        """The encoding of each text or pair between the model's own tokens, of at most `max_length` tokens."""
        self.engine.enable_truncation(max_length)
        try:
            yield from self.encode(texts, special=True)
        finally:
            self.engine.no_truncation()

    def around(self) -> tuple[list[int], list[int]]:
        """The tokens that the model expects before and behind a text."""
        encoding = self.engine.encode("a", add_special_tokens=True)
        inside = [place for place, special in enumerate(encoding.special_tokens_mask) if not special] or [len(encoding)]
        return encoding.ids[: inside[0]], encoding.ids[inside[-1] + 1 :]

    def _own_bos(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """The id of the token that the tokenizer itself puts before a text, if it is BOS."""
        around = self.engine.encode("", add_special_tokens=True).ids
        bos = tokenizer.bos_token
        return around[0] if around and bos is not None and self.engine.token_to_id(str(bos)) == around[0] else None


class TokenColumns:
    """Collects rows of token ids in one growing array."""

    def __init__(self, tokens: TextTokenizer) -> None:
        """Prepare for ids of this tokenizer."""
        self._ids = array("H" if tokens.is_small else "i")
        self._lengths = array("q")

    def add(self, ids: Sequence[int]) -> None:
        """Append one row."""
        self._ids.extend(ids)
        self._lengths.append(len(ids))

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows so far."""
        return len(self._ids)

    def ids(self) -> NDArray[np.int32] | NDArray[np.uint16]:
        """All tokens, (tokens,)."""
        return np.frombuffer(self._ids, dtype=self._ids.typecode) if self._ids else np.zeros(0, dtype=self._ids.typecode)

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, (rows,)."""
        return np.frombuffer(self._lengths, dtype=np.int64) if self._lengths else np.zeros(0, dtype=np.int64)


def _batches(texts: Sequence[str] | Sequence[str | tuple[str, str]]) -> Iterator[list[str | tuple[str, str]]]:
    """Slices limited by number and by characters."""
    start = size = 0
    for index, text in enumerate(texts):
        length = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
        if index > start and (index - start >= TEXTS_AT_ONCE or size + length > CHARACTERS_AT_ONCE):
            yield list(texts[start:index])
            start, size = index, 0
        size += length
    if start < len(texts):
        yield list(texts[start:])


def _special_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of the tokens that stand for no text: the marked ones, and added ones that look like `<...>` or `[...]`."""
    added = tokenizer.added_tokens_decoder.values()
    looks = [token.content for token in added if token.special or (token.content[:1] + token.content[-1:] in ("<>", "[]"))]
    return sorted({*map(str, tokenizer.all_special_tokens), *looks} - {""})
