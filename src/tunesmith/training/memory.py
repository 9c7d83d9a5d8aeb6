"""Memory of this process: what it holds, the most it held, and an allocator that keeps what it will need again."""

import contextlib
import ctypes
import gc
import os
import platform
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

from tunesmith.kernels import pool

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of glibc's mallopt
_NUM_KERNELS = 64  # with 32, a layer's are thrown out before the next layer needs them; 128 hold 100 MB more (docs/log.md)
_KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_STATUS = Path("/proc/self/status")
_PAGES = Path("/proc/self/smaps_rollup")
_REFERENCES, _FORGET_PEAK = Path("/proc/self/clear_refs"), "5"  # proc(5): the peak is what is held now


def resident_bytes() -> int:
    """Memory the process holds now; on a GPU, what tensors hold there."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.memory_allocated()
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most memory the process held since `forget_peak`, or ever; on a GPU, what tensors held there."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if platform.system() == "Darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> bool:
    """Let `peak_bytes` look at what comes from now on; does nothing, and says so by False, where the system cannot."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        _REFERENCES.write_text(_FORGET_PEAK)
    except OSError:
        return False
    return True


def shared_bytes() -> int:
    """Memory that this process holds together with others, as a forked process does with what it was given."""
    return sum(size for field, size in _sizes(_PAGES).items() if field in ("Shared_Clean", "Shared_Dirty"))


def _status(field: str) -> int | None:
    """A size from Linux's process status, None where there is none."""
    return _sizes(_STATUS).get(field)


def _sizes(path: Path) -> dict[str, int]:
    """The sizes that a file of Linux's process information tells, none where there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines if line.endswith(" kB"))
    return {name: int(text.split()[0]) * 1024 for name, _, text in fields}


def give_back() -> None:
    """Give pages that hold nothing back to the system, also those that the next pass would need again."""
    pool.give_back()
    trim()


def trim() -> None:
    """Give pages of the heap that hold nothing back to the system."""
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _has_glibc() -> bool:
    return platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"


def keep_few_kernels() -> None:
    """Let torch's library of products (oneDNN) keep the code that it makes for each shape for few shapes only.

    It keeps 1,024 of them, half a megabyte each; every pass has another number of tokens, so they are rarely met again.
    It looks once, at the first product of the process: call this before. What the user has set stands.
    """
    for name in _KERNEL_CACHES:
        os.environ.setdefault(name, str(_NUM_KERNELS))


def return_freed_memory() -> bool:
    """Let the C library give large freed blocks back at once; for loading, where blocks come that stay and others that go.

    Does nothing, and says so by False, where the C library is another one.
    """
    if not _has_glibc():
        return False
    libc = ctypes.CDLL(None)
    options = ((_MMAP_MAX, 2**16), (_MMAP_THRESHOLD, 2**18), (_TRIM_THRESHOLD, 2**17), (_TOP_PAD, 0))
    return all(libc.mallopt(option, value) for option, value in options)


@contextlib.contextmanager
def returned() -> Iterator[None]:
    """Behind the block, give back what it took; around a function as `@returned()`, when its variables are gone."""
    try:
        yield
    finally:
        gc.collect()  # a model is a circle of modules that know each other
        return_freed_memory()
        give_back()


def keep_freed_memory() -> bool:
    """Let the C library keep freed blocks for the next step instead of giving each back and faulting it in anew.

    By default glibc maps every large tensor separately and returns it at once; a training step asks for the same
    sizes again and again. Does nothing, and says so by False, where the C library is another one.
    """
    if not _has_glibc():
        return False
    libc = ctypes.CDLL(None)
    return all((libc.mallopt(_MMAP_MAX, 0), libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1), libc.mallopt(_TOP_PAD, 64 * 2**20)))
