"""The C code of this folder, compiled for the processor at hand by the C compiler at hand, once, and kept in the cache.

What is loaded is code, so it is taken only from a folder that belongs to the user and that nobody else can write to; where
the cache is not such a folder, each process compiles for itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.starter.resolve import cache_folder

FORMATS = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}
"""The number formats that the code can be compiled for."""
_FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_FOR_THIS_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())
"""What compilers call it, and if they know neither word, code for every processor of this kind."""
_TIMEOUT_SECONDS = 120
_FOLDER = Path(__file__).parent

Argument = Tensor | Sequence[int] | int | float | None


class NotCompiled(Exception):
    """There is no compiled code here; the text says why."""


def call(name: str, dtype: torch.dtype, *arguments: Argument) -> None:
    """Call a function of the code for `dtype`; tensors, and sequences of whole numbers, are given by their address.

    Raises:
        NotCompiled: If there is no code here.
    """
    getattr(library(dtype), name)(*map(_for_c, arguments))


def is_there() -> bool:
    """Whether the code can be called."""
    return why_not() is None


@functools.cache
def why_not() -> str | None:
    """Why there is no code, if there is none."""
    if os.environ.get("TUNESMITH_COMPILED", "on") == "off":
        return "TUNESMITH_COMPILED is off"
    try:
        for dtype in FORMATS:
            library(dtype)
    except NotCompiled as reason:
        return str(reason)
    return None


@functools.cache
def library(dtype: torch.dtype) -> ctypes.CDLL:
    """The code for a number format, compiled if it is not in the cache.

    Raises:
        NotCompiled: If that cannot be.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None:
        raise NotCompiled("no C compiler is installed (cc, gcc or clang)")
    name = f"{str(dtype).removeprefix('torch.')}-{_fingerprint(compiler)}.so"
    with contextlib.ExitStack() as stack:
        folder = _private_cache() or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not (folder / name).exists():
            _compile(compiler, FORMATS[dtype], folder / name)
        try:
            return ctypes.CDLL(str(folder / name))
        except OSError as error:
            (folder / name).unlink()  # the next run makes it again
            raise NotCompiled(f"what {compiler} made cannot be loaded: {error}") from None


def _private_cache() -> Path | None:
    """Where compiled code is kept; None if others could change what is there."""
    folder = cache_folder() / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return None
    is_private = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if is_private and os.access(folder, os.W_OK) else None


def _compile(compiler: str, flags: Sequence[str], target: Path) -> None:
    """Compile into a file that is there whole or not at all.

    Raises:
        NotCompiled: If the compiler does not succeed.
    """
    reason = ""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, target.name)
        for processor in _FOR_THIS_PROCESSOR:
            command = [compiler, *_FLAGS, *processor, *flags, "-o", str(made), *map(str, sorted(_FOLDER.glob("*.c"))), "-lm"]
            try:
                result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise NotCompiled(f"{compiler} could not be run: {error}") from None
            if result.returncode == 0:
                made.replace(target)
                return
            reason = next(iter(result.stderr.splitlines()), f"exit code {result.returncode}")
    raise NotCompiled(f"{compiler} failed: {reason}")


def _fingerprint(compiler: str) -> str:
    """Of all that the compiled code depends on: what is compiled, by what, and for which processor."""
    digest = hashlib.sha256()
    for file in sorted([*_FOLDER.glob("*.c"), *_FOLDER.glob("*.h")]):
        digest.update(file.read_bytes())
    about = Path(compiler).resolve().stat()
    digest.update(f"{compiler} {about.st_size} {about.st_mtime_ns} {_FLAGS} {platform.machine()}".encode())
    with contextlib.suppress(OSError):
        digest.update("".join(re.findall(r"^(?:model name|flags|Features)\s*:.*$", _processor(), re.MULTILINE)[:2]).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    return Path("/proc/cpuinfo").read_text()


def _for_c(argument: Argument) -> object:
    """An argument as C takes it."""
    if argument is None:
        return None
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    return (ctypes.c_long * len(argument))(*argument)
