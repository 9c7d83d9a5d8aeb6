"""Where the rows of a packed stream begin and end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor


class Segments:
    """The segments of one packed stream of `sum(lengths)` tokens."""

    def __init__(self, lengths: list[int], device: torch.device | str = "cpu") -> None:
        assert lengths, "a stream has at least one segment"
        assert min(lengths) > 0, "a segment without tokens has no place in a stream"
        self.lengths = lengths
        self.device = torch.device(device)
        self._masks: dict[tuple[int, bool, int | None, torch.dtype], Tensor | None] = {}

    def __iter__(self) -> Iterator[slice]:
        """The place of each segment in the stream."""
        start = 0
        for length in self.lengths:
            yield slice(start, start + length)
            start += length

    @cached_property
    def starts(self) -> Tensor:
        """(segments,) index of each first token."""
        lengths = torch.tensor(self.lengths, device=self.device)
        return torch.cumsum(lengths, 0) - lengths

    @cached_property
    def last(self) -> Tensor:
        """(segments,) index of each last token."""
        return self.starts + torch.tensor(self.lengths, device=self.device) - 1

    @cached_property
    def boundaries(self) -> Tensor:
        """(segments + 1,) int32 cumulative lengths, as variable-length kernels want them."""
        ends = torch.cumsum(torch.tensor(self.lengths), 0)
        return torch.cat([torch.zeros(1, dtype=torch.int64), ends]).to(torch.int32).to(self.device)

    @cached_property
    def positions(self) -> Tensor:
        """(tokens,) position of each token in its segment."""
        return torch.cat([torch.arange(n, device=self.device) for n in self.lengths])

    def mask(self, length: int, *, causal: bool, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """What to add to the scores `(length, length)` of a segment: 0 where a token may look, minus infinity elsewhere.

        None where all may look at all. Every layer asks for the same few, so they are made once.
        """
        key = (length, causal, window, dtype)
        if key not in self._masks:
            self._masks[key] = None if _sees_all(length, causal, window) else _mask(length, causal, window, dtype, self.device)
        return self._masks[key]


def _sees_all(length: int, causal: bool, window: int | None) -> bool:
    return (not causal or length == 1) and (window is None or window >= length)


def _mask(length: int, causal: bool, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    steps = torch.arange(length, device=device)
    distance = steps[:, None] - steps
    hidden = distance < 0 if causal else torch.zeros_like(distance, dtype=torch.bool)
    if window is not None:
        hidden = hidden | (distance.abs() >= window)
    return torch.zeros(length, length, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
