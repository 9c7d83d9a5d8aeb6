"""What one forward pass is given: rows after each other in one stream, with what to predict."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.kernels.segments import Segments


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A packed stream of rows and their targets."""

    input_ids: Tensor
    """(tokens,)"""
    lengths: list[int]
    """Tokens of each row."""
    targets: Tensor
    """Language: (labelled,) the token to predict at each of `positions`. Classification: (rows,) class ids."""
    positions: Tensor | None = None
    """(labelled,) where in the stream (with a decoder: the target stream) a token is predicted; None: one target a row."""
    token_types: Tensor | None = None
    """(tokens,) which text of a pair, for encoders that want it."""
    decoder_lengths: list[int] | None = None
    """With an encoder-decoder: tokens of each row's target; the targets are all of them, one row after the other."""
    beginning: Tensor | None = None
    """(words,) what every row of the step begins with before its tokens in the stream, computed once for all passes."""
    num_real_tokens: int = 0
    """Tokens of the rows as the data has them; the last one of a row predicts nothing and is left out of the stream."""

    def __reduce__(self) -> tuple[object, ...]:
        """Sent to another process as plain bytes: tensors would go through a file each."""
        return _from_arrays, ({n: v.cpu().numpy() if isinstance(v, Tensor) else v for n, v in vars(self).items()},)

    @property
    def num_targets(self) -> int:
        """How many predictions count in the loss."""
        return len(self.targets)

    @property
    def num_rows(self) -> int:
        """How many rows of the data are in the stream."""
        return len(self.lengths)

    def segments(self) -> Segments:
        """Where the rows begin and end."""
        return Segments(self.lengths, self.input_ids.device)

    def row_of_target(self) -> Tensor:
        """(labelled,) index of the row that each target belongs to."""
        if self.positions is None:
            return torch.arange(self.num_rows, device=self.targets.device)
        lengths = torch.tensor(self.decoder_lengths or self.lengths, device=self.targets.device)
        return torch.searchsorted(torch.cumsum(lengths, 0), self.positions, right=True)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        tensors = {n: v.to(device, non_blocking=True) for n, v in vars(self).items() if isinstance(v, Tensor)}
        return Batch(**{**vars(self), **tensors})


def _from_arrays(contents: dict[str, Any]) -> Batch:
    """The batch of its fields, with an array in the place of each tensor."""
    tensors = {n: torch.from_numpy(v) for n, v in contents.items() if isinstance(v, np.ndarray)}
    return Batch(**{**contents, **tensors})


def join(batches: Sequence[Batch]) -> Batch:
    """The rows of all batches, one batch after the other in one stream; not for encoder-decoders."""
    starts = itertools.accumulate((len(batch.input_ids) for batch in batches), initial=0)
    positions = [b.positions + start for b, start in zip(batches, starts, strict=False) if b.positions is not None]
    token_types = [batch.token_types for batch in batches if batch.token_types is not None]
    return Batch(
        input_ids=torch.cat([batch.input_ids for batch in batches]),
        lengths=[length for batch in batches for length in batch.lengths],
        targets=torch.cat([batch.targets for batch in batches]),
        positions=torch.cat(positions) if positions else None,
        token_types=torch.cat(token_types) if token_types else None,
        num_real_tokens=sum(batch.num_real_tokens for batch in batches),
    )


def pad(stream: Tensor, lengths: list[int], value: int) -> tuple[Tensor, Tensor]:
    """Rows of a stream as a rectangle `(rows, longest)`, filled up on the right, with its attention mask."""
    rectangle = torch.nn.utils.rnn.pad_sequence(list(stream.split(lengths)), batch_first=True, padding_value=value)
    steps = torch.arange(rectangle.shape[1], device=stream.device)
    return rectangle, (steps < torch.tensor(lengths, device=stream.device)[:, None]).long()
