"""Keys and values as one part of a stream sees them, and the way back of their gradients: some tokens may be shared by all."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from tunesmith.kernels.segments import Part, Segments


class Seen:
    """Keys or values as a segment sees them: the shared ones first, then its own."""

    def __init__(self, t: Tensor, segments: Segments) -> None:
        self.all, self.num_shared, self.longest = t, segments.num_shared, max(segments.lengths)

    def by(self, part: Part) -> Tensor:
        """`(seen, heads, width)`, valid until the next call."""
        own = self.all[part.keys]
        if not part.num_shared:
            return own
        if part.keys.start == part.num_shared:  # what it sees stands together
            return self.all[: part.keys.stop]
        if self.all.requires_grad:
            return torch.cat([self.all[: part.num_shared], own])
        end = part.num_shared + len(own)
        self.buffer[part.num_shared : end] = own
        return self.buffer[:end]

    @cached_property
    def buffer(self) -> Tensor:
        """The shared ones, copied once, and room for a segment's own behind them."""
        buffer = self.all.new_empty(self.num_shared + self.longest, *self.all.shape[1:])
        buffer[: self.num_shared] = self.all[: self.num_shared]
        return buffer


class SeenGradients:
    """Where a segment writes the gradients of what it sees; those of the shared tokens are summed over all segments."""

    def __init__(self, total: Tensor, segments: Segments) -> None:
        self.total, self.segments, self.num_shared = total, segments, segments.num_shared
        self.shared = None
        if self.num_shared:
            wide = torch.promote_types(total.dtype, torch.float32)
            self.shared = torch.zeros(self.num_shared, *total.shape[1:], dtype=wide, device=total.device)

    def of(self, part: Part) -> Tensor:
        """`(seen, heads, width)`, to be filled."""
        length = part.keys.stop - part.keys.start
        return self.buffer[: part.num_shared + length] if part.num_shared else self.total[part.keys]

    def add(self, part: Part) -> None:
        """Take over what was filled in."""
        if part.num_shared and self.shared is not None:
            filled = self.of(part)
            self.shared[: part.num_shared] += filled[: part.num_shared]
            self.total[part.keys] = filled[part.num_shared :]

    def end(self) -> None:
        """Write the sums, rounded once."""
        if self.shared is None:
            return
        given = self.segments.num_given
        self.shared[given:] += self.total[given : self.num_shared]  # what the tokens ahead see of each other
        self.total[: self.num_shared] = self.shared

    @cached_property
    def buffer(self) -> Tensor:
        """Room for the gradients of all that a segment sees."""
        return self.total.new_empty(self.num_shared + max(self.segments.lengths), *self.total.shape[1:])
