"""Where the rows of a packed stream begin and end, and how attention may take them in rectangular blocks."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LONG_SEGMENT = 256  # tokens; above it torch's flash attention beats batched products on the CPU
WASTE = 1.25  # a block may hold at most this many times the tokens of its shortest row per row


@dataclass(frozen=True)
class Block:
    """Segments of similar length, as one rectangle."""

    rows: Tensor
    """(segments, length) index into the stream; past the end of a segment it points at the stream's first token."""
    inside: Tensor | None
    """(segments, length) True where a token is; None where the block is full."""
    tokens: Tensor
    """(tokens of the block,) index into the stream, in the order of `rows[inside]`."""

    @property
    def length(self) -> int:
        """Tokens in a row of the rectangle."""
        return self.rows.shape[1]


class Segments:
    """The segments of one packed stream of `sum(lengths)` tokens."""

    def __init__(self, lengths: list[int], device: torch.device | str = "cpu") -> None:
        assert lengths and min(lengths) > 0, "a segment without tokens has no place in a stream"
        self.lengths = lengths
        self.device = torch.device(device)

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

    @cached_property
    def blocks(self) -> list[Block]:
        """The segments sorted by length and cut into rectangles with little waste."""
        order = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        groups: list[list[int]] = []
        for index in order:
            length = self.lengths[index]
            shortest = self.lengths[groups[-1][0]] if groups else 0
            fits = groups and (length == shortest if length > LONG_SEGMENT else length <= max(shortest * WASTE, shortest + 4))
            groups[-1].append(index) if fits else groups.append([index])
        return [self._block(group) for group in groups]

    def _block(self, group: list[int]) -> Block:
        lengths = torch.tensor([self.lengths[i] for i in group], device=self.device)
        steps = torch.arange(int(lengths.max()), device=self.device)
        inside = steps < lengths[:, None]
        rows = torch.where(inside, self.starts[torch.tensor(group, device=self.device)][:, None] + steps, 0)
        return Block(rows, None if bool(inside.all()) else inside, rows[inside])
