"""One function in several forms: of torch's operations, for any device, and as kernels of our own, for a GPU and a processor.

`@by_device` on `f` of `tunesmith.kernels.NAME` lets `f` of `tunesmith.kernels.gpu.NAME` compute where the first argument
lies on a GPU, and `f` of `tunesmith.kernels.cpu.NAME` where it lies in the memory of a processor and one thread computes, or
several that share the kernels' loops. Either is imported then and not before. The one needs Triton, which comes with torch for
CUDA, the other a C compiler; without them, and in float64, torch's operations compute.
"""

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from tunesmith.kernels.cpu import compiled

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Kind = Literal["gpu", "cpu"]

FUNCTIONS: dict[str, Callable[..., object]] = {}
"""Every function that has several forms, as 'module.function', in the form of torch's operations."""
_plain: list[None] = []
"""One for each scope in which torch's operations compute."""


def by_device(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a kernel of the same name take over where there is one."""
    return _by_device(function, is_fast_alone=False)


def by_device_alone(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The same for one whose kernel for a processor beats torch's operations by one thread, however many these have."""
    return _by_device(function, is_fast_alone=True)


def _by_device(function: Callable[Arguments, Result], *, is_fast_alone: bool) -> Callable[Arguments, Result]:
    module, name = function.__module__.rpartition(".")[2], function.__name__
    FUNCTIONS[f"{module}.{name}"] = function

    @functools.wraps(function)
    def chosen(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        kind = kind_for(args, is_fast_alone=is_fast_alone)
        kernel = None if kind is None else kernel_of(kind, module, name)
        return (kernel or function)(*args, **kwargs)

    return chosen


def kind_for(args: tuple[object, ...], *, is_fast_alone: bool = False) -> Kind | None:
    """Whose kernel takes a call with such arguments; None is torch's operations.

    These take it too where a kernel for a processor would be computed by one of several threads, unless that is fast enough.
    """
    first = args[0]
    if _plain or not isinstance(first, Tensor):
        return None
    dtype = next((a for a in args if isinstance(a, torch.dtype)), first.dtype)
    if torch.float64 in (dtype, *(a.dtype for a in args if isinstance(a, Tensor))):
        return None
    if first.is_cuda:
        return "gpu" if has_triton() else None
    if first.device.type != "cpu" or dtype not in compiled.FORMATS:
        return None
    if not compiled.is_there():
        return None
    return "cpu" if is_fast_alone or torch.get_num_threads() == 1 or compiled.shares_threads() else None


@contextlib.contextmanager
def torch_alone() -> Iterator[None]:
    """Let torch's operations compute for a while, whatever there is."""
    _plain.append(None)
    try:
        yield
    finally:
        _plain.pop()


def missing(device_type: str) -> str | None:
    """Why torch's operations compute on a device though nobody asked for that, None where kernels do."""
    if _plain:
        return None
    if device_type == "cpu":
        return compiled.why_not()
    return None if has_triton() else "Triton is not installed (pip install triton)"


def description(device_type: str) -> str:
    """What computes on a device, in words; another answer means other roundings."""
    reason = "as asked" if _plain else missing(device_type)
    if reason:
        return f"torch's operations alone: {reason}"
    return f"tunesmith's in C, {compiled.fingerprint()}" if device_type == "cpu" else "tunesmith's in Triton"


@functools.cache
def has_triton() -> bool:
    """Whether kernels for a GPU can be built here."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def kernel_of(kind: Kind, module: str, name: str) -> Callable[..., Any] | None:
    """The form for a GPU or a processor of a function of a module of this package; None if it has none."""
    path = f"tunesmith.kernels.{kind}.{module}"
    return getattr(importlib.import_module(path), name, None) if importlib.util.find_spec(path) else None
