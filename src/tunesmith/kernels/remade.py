"""Results that are made again in the backward pass instead of being kept for it, because that costs next to nothing.

A norm's output is one product away from its input, which is kept anyway, and every layer that reads it would keep it too.
Inside `sparing`, whatever autograd saves is looked at: where it is the very memory of a result that was announced by
`can_remake`, what it is made of is held in its place.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Make = Callable[[], Tensor]


@dataclass(frozen=True)
class _Known:
    """A result, and how to have it again."""

    result: weakref.ref[Tensor]
    version: int
    """Of its content; a change in place ends what is known of it."""
    make: Make

    def is_memory_of(self, saved: Tensor) -> bool:
        """Whether a tensor holds the numbers of the result, all and in order, perhaps in another shape."""
        result = self.result()  # while it lives, nobody else has its memory
        return (
            result is not None
            and saved.numel() == result.numel()
            and saved.dtype == result.dtype
            and saved.is_contiguous()
            and result.is_contiguous()
            and saved._version == self.version
        )


@dataclass(frozen=True)
class _Recipe:
    """What is held in the place of a saved tensor."""

    make: Make
    shape: torch.Size


_known: list[dict[int, _Known]] = []
"""What can be made again in each scope, by address."""


@contextlib.contextmanager
def sparing() -> Iterator[None]:
    """Let autograd hold, for every result that can be made again, only what it is made of."""
    _known.append({})
    try:
        with torch.autograd.graph.saved_tensors_hooks(_pack, _unpack):
            yield
    finally:
        _known.pop()


def can_remake(result: Tensor, make: Make) -> None:
    """Announce that `make`, which must hold no graph, gives the numbers of `result` again, bit by bit."""
    if _known and torch.is_grad_enabled():
        _known[-1][result.data_ptr()] = _Known(weakref.ref(result), result._version, make)


def _pack(saved: Tensor) -> Tensor | _Recipe:
    known = _known[-1].get(saved.data_ptr()) if _known else None
    return _Recipe(known.make, saved.shape) if known is not None and known.is_memory_of(saved) else saved


def _unpack(held: Tensor | _Recipe) -> Tensor:
    return held if isinstance(held, Tensor) else held.make().view(held.shape)
