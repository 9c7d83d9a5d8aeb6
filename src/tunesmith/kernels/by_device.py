"""One function in two forms: of torch's operations, for any device, and as a kernel of our own, for a GPU.

`@by_device` on `f` of `tunesmith.kernels.NAME` lets `f` of `tunesmith.kernels.gpu.NAME` compute where the first argument
lies on a GPU. That module is imported then and not before: it needs Triton, which comes with torch for CUDA. Without Triton,
and in float64, torch's operations compute on a GPU too.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

FUNCTIONS: dict[str, Callable[..., object]] = {}
"""Every function that has two forms, as 'module.function', in the form of torch's operations."""


def by_device(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let the kernel of the same name take over on a GPU."""
    module, name = function.__module__.rpartition(".")[2], function.__name__
    FUNCTIONS[f"{module}.{name}"] = function

    @functools.wraps(function)
    def chosen(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if takes_kernel(args[0]):
            return getattr(kernels(module), name)(*args, **kwargs)
        return function(*args, **kwargs)

    return chosen


def takes_kernel(first: object) -> bool:
    """Whether a call whose first argument is given goes to a kernel."""
    return isinstance(first, Tensor) and first.is_cuda and first.dtype != torch.float64 and has_triton()


@functools.cache
def has_triton() -> bool:
    """Whether kernels can be built here."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def kernels(module: str) -> ModuleType:
    """The GPU's forms of the functions of a module of this package; needs Triton."""
    return importlib.import_module(f"tunesmith.kernels.gpu.{module}")
