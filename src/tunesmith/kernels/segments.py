"""Where the rows of a packed stream begin and end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Queries that look at the same keys."""

    queries: slice
    """Their place among all queries."""
    keys: slice
    """The place of their own keys among all keys."""
    num_shared: int
    """How many of the shared keys, from the first on, they look at before their own."""


@dataclass(frozen=True)
class Table:
    """The small parts of a stream for code that takes them all at once, and the others."""

    parts: Tensor
    """`(parts, 5)` int64: first query, queries, first own key, own keys, shared keys; as in parts.h"""
    others: list[Part]


@dataclass(frozen=True)
class Layout:
    """All parts of a stream one after the other, each with the keys that it sees: first the shared ones, then its own."""

    query_ends: Tensor
    """(parts + 1,) int32 cumulative numbers of queries, from 0"""
    key_ends: Tensor
    """(parts + 1,) int32 cumulative numbers of keys that are seen, from 0"""
    most_queries: int
    """Of one part."""
    most_keys: int
    """That one part sees."""
    seen: Tensor
    """(seen,) which of all keys each seen key is"""
    own: Tensor
    """(own keys,) places among the seen keys, in the order of the keys, where each part has its own"""
    copies: Tensor
    """(segments * shared,) places among the seen keys where segments have the shared ones"""
    num_copied: int
    """Shared keys that the tokens ahead see; they are the first of the seen keys."""


class Segments:
    """The segments of one packed stream, of which every token belongs to one or stands ahead of all.

    Keys and values begin with what every segment sees, once for all of them: first `num_given` keys that belong to no
    token, which no window hides, then those of `num_ahead` tokens that the stream begins with. These are a segment of their
    own, which stands before every other in position and sees the given keys, too.
    """

    def __init__(
        self, lengths: list[int], device: torch.device | str = "cpu", *, num_given: int = 0, num_ahead: int = 0
    ) -> None:
        assert lengths, "a stream has at least one segment"
        assert min(lengths) > 0, "a segment without tokens has no place in a stream"
        self.lengths = lengths
        self.device = torch.device(device)
        self.num_given = num_given
        self.num_ahead = num_ahead
        self.num_shared = num_given + num_ahead
        self._masks: dict[tuple[int, bool, int | None, torch.dtype, int], Tensor | None] = {}
        self._strips: dict[tuple[int, int, int, bool, int, torch.dtype], Tensor] = {}
        self._sharing: dict[tuple[int, int], Segments] = {}
        self._tables: dict[int, Table] = {}

    def __iter__(self) -> Iterator[slice]:
        """The place of each segment among the tokens of all segments."""
        start = 0
        for length in self.lengths:
            yield slice(start, start + length)
            start += length

    def sharing(self, *, num_given: int = 0, num_ahead: int = 0) -> Segments:
        """The same segments, with more to see before them; every layer asks for the same few, so they are made once."""
        key = (self.num_given + num_given, self.num_ahead + num_ahead)
        if key not in self._sharing:
            self._sharing[key] = Segments(self.lengths, self.device, num_given=key[0], num_ahead=key[1])
        return self._sharing[key]

    def parts(self) -> Iterator[Part]:
        """Who looks at whom; the tokens ahead first."""
        shared, ahead = self.num_shared, self.num_ahead
        if ahead:
            yield Part(slice(0, ahead), slice(self.num_given, shared), self.num_given)
        for place in self:
            own = slice(place.start + shared, place.stop + shared)
            yield Part(slice(place.start + ahead, place.stop + ahead), own, shared)

    def table(self, most_tokens: int) -> Table:
        """The parts that see at most so many tokens, and the others; made once, whoever asks."""
        if most_tokens not in self._tables:
            small, others = [], []
            for part in self.parts():
                own = part.keys.stop - part.keys.start
                row = (part.queries.start, part.queries.stop - part.queries.start, part.keys.start, own, part.num_shared)
                if part.num_shared + own <= most_tokens:
                    small.append(row)
                else:
                    others.append(part)
            self._tables[most_tokens] = Table(torch.tensor(small, dtype=torch.int64).reshape(-1, 5), others)
        return self._tables[most_tokens]

    @cached_property
    def num_queries(self) -> int:
        """Tokens of the whole stream, those ahead included."""
        return sum(self.lengths) + self.num_ahead

    def there(self, tensor: Tensor) -> Tensor:
        """A tensor of this process where the stream is, without waiting for what is computed there."""
        return tensor.to(self.device, non_blocking=True)

    @cached_property
    def sizes(self) -> Tensor:
        """(segments,) tokens of each."""
        return self.there(torch.tensor(self.lengths))

    @cached_property
    def starts(self) -> Tensor:
        """(segments,) index of each first token."""
        return torch.cumsum(self.sizes, 0) - self.sizes

    @cached_property
    def last(self) -> Tensor:
        """(segments,) index of each last token."""
        return self.starts + self.sizes - 1

    @cached_property
    def layout(self) -> Layout:
        """The same for kernels that take all parts at once; made once, whoever asks."""
        return _layout(self)

    @cached_property
    def positions(self) -> Tensor:
        """(tokens,) position of each token in its segment."""
        return self.there(torch.cat([torch.arange(n) for n in self.lengths]))

    def mask(self, length: int, *, causal: bool, window: int | None, dtype: torch.dtype, shared: int = 0) -> Tensor | None:
        """What to add to the scores `(length, keys)` of a segment: 0 where a token may look, minus infinity elsewhere.

        The keys are so many of the shared ones and then the segment's own. None where all may look at all.
        Every layer asks for the same few, so they are made once.
        """
        key = (length, causal, window, dtype, shared)
        if key not in self._masks:
            self._masks[key] = self._made(key)
        return self._masks[key]

    def strip(self, num_queries: int, num_keys: int, first: int, *, causal: bool, window: int, dtype: torch.dtype) -> Tensor:
        """The same for some queries of a segment and some keys, `(queries, keys)`; the first query's own key has place `first`.

        Blocks in the middle of segments ask for the same few.
        """
        key = (num_queries, num_keys, first, causal, window, dtype)
        if key not in self._strips:
            self._strips[key] = _mask(_distances(num_queries, num_keys, first, self.device), causal, window, dtype)
        return self._strips[key]

    def _made(self, key: tuple[int, bool, int | None, torch.dtype, int]) -> Tensor | None:
        length, causal, window, dtype, shared = key
        always = min(shared, self.num_given)
        before = shared - always
        if _sees_all(length, causal, window, before):
            return None
        mask = _mask(_distances(length, before + length, before, self.device), causal, window, dtype)
        return torch.nn.functional.pad(mask, (always, 0)) if always else mask


def _layout(segments: Segments) -> Layout:
    shared, parts = torch.arange(segments.num_shared), list(segments.parts())
    num_queries = [part.queries.stop - part.queries.start for part in parts]
    keys = [torch.arange(part.keys.start, part.keys.stop) for part in parts]
    heads = [shared[: part.num_shared] for part in parts]
    num_keys = [len(head) + len(own) for head, own in zip(heads, keys, strict=True)]
    starts = [0, *itertools.accumulate(num_keys)]

    def places(offset_of: Callable[[int], int], tensors: list[Tensor], first: int = 0) -> Tensor:
        pieces = [torch.arange(len(t)) + offset_of(i) for i, t in enumerate(tensors)]
        return segments.there(torch.cat(pieces[first:]))

    ahead = 1 if segments.num_ahead else 0
    return Layout(
        query_ends=segments.there(torch.tensor([0, *itertools.accumulate(num_queries)], dtype=torch.int32)),
        key_ends=segments.there(torch.tensor(starts, dtype=torch.int32)),
        most_queries=max(num_queries),
        most_keys=max(num_keys),
        seen=segments.there(torch.cat([piece for pair in zip(heads, keys, strict=True) for piece in pair])),
        own=places(lambda i: starts[i] + len(heads[i]), keys),
        copies=places(lambda i: starts[i], heads, ahead),
        num_copied=segments.num_given * ahead,
    )


def _sees_all(length: int, causal: bool, window: int | None, before: int) -> bool:
    return (not causal or length == 1) and (window is None or window >= before + length)


def _distances(num_queries: int, num_keys: int, first: int, device: torch.device) -> Tensor:
    """How far each query stands behind each key, `(queries, keys)`; the first query at place `first` of the keys."""
    return torch.arange(first, first + num_queries, device=device)[:, None] - torch.arange(num_keys, device=device)


def _mask(distances: Tensor, causal: bool, window: int | None, dtype: torch.dtype) -> Tensor:
    hidden = distances < 0 if causal else torch.zeros_like(distances, dtype=torch.bool)
    if window is not None:
        hidden = hidden | (distances.abs() >= window)
    return torch.zeros(distances.shape, dtype=dtype, device=distances.device).masked_fill_(hidden, -torch.inf)
