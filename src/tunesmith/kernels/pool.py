"""Memory for the large tensors of a pass, on a processor.

A pass makes hundreds of large tensors and drops them all, and the next one, of another length, makes them a little larger or
smaller. Among them lie small things that stay, such as the code that torch's library makes for products of a new shape. In one
heap these keep freed memory in pieces that are too small for the next pass, and it takes new memory: a third of the heap for
LoRA on SmolLM2 (docs/log.md). Here the large ones are by themselves, so that behind a pass all is free in one piece.

Without compiled code, and on a GPU, whose allocator sees to the same, tensors are torch's.
"""

import ctypes
import functools
import math
import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.kernels.cpu import compiled

SMALLEST_BYTES = 2**15
"""Smaller tensors are torch's: they find room in any heap."""
_KINDS = {torch.float32: 2, torch.bfloat16: 4, torch.uint8: 1}
"""What DLPack calls them."""
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


def empty_like(like: Tensor) -> Tensor:
    """Unwritten, of the same shape and type, and side by side in the same order where that is without gaps."""
    shape, stride = like.shape, like.stride()
    if like.is_contiguous() or not _is_dense(shape, stride):
        return new_empty(like, *shape)
    flat = new_empty(like, like.numel())
    return flat.as_strided(shape, stride)


def new_empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Unwritten, where another tensor is and of its type unless another is given."""
    count, dtype = math.prod(shape), dtype or like.dtype
    if like.device.type == "cpu" and count * dtype.itemsize >= SMALLEST_BYTES and dtype in _KINDS and (take := _take()):
        given = take(_reserved_bytes(), count, _KINDS[dtype], 8 * dtype.itemsize)
        if given is not None:
            return torch.from_dlpack(_new_capsule(given, b"dltensor", None)).view(shape)
    return like.new_empty(shape, dtype=dtype)


def give_back() -> None:
    """Give the pages of what is not in use back to the system."""
    if _take():
        compiled.library(torch.float32).pool_give_back()


def _is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether elements lie side by side, in whatever order of the axes."""
    expected = 1
    for step, size in sorted((step, size) for step, size in zip(stride, shape, strict=True) if size != 1):
        if step != expected:
            return False
        expected *= size
    return True


@functools.cache
def _take() -> Callable[[int, int, int, int], int | None] | None:
    """The code's function that hands tensors out, if there is code."""
    if not compiled.is_there():
        return None
    function = compiled.library(torch.float32).pool_take
    function.argtypes, function.restype = (ctypes.c_long,) * 4, ctypes.c_void_p
    return function


@functools.cache
def _reserved_bytes() -> int:
    """Addresses to set apart: as many as there is memory, of which none is taken before it is written to.

    None where addresses are limited or counted as if they were memory, so that others would miss them.
    """
    are_limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return 0 if are_limited or _are_counted() else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _are_counted() -> bool:
    """Whether Linux promises no more addresses than there is memory."""
    try:
        return _OVERCOMMIT.read_text().strip() == "2"  # proc_sys_vm(5)
    except OSError:
        return False
