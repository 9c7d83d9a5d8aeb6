"""The C code of this folder, compiled for the processor at hand by the C compiler at hand, once, and kept in the cache.

What is loaded is code, so it is taken only from a folder that belongs to the user and that nobody else can write to; where
the cache is not such a folder, each process compiles for itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.starter.resolve import cache_folder

FORMATS = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}
"""The number formats that the code can be compiled for."""
_FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread")
_FOR_THIS_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())
"""What compilers call it, and if they know neither word, code for every processor of this kind."""
_THREADS = "-fopenmp"
_TORCHS_THREADS = "libgomp.so.1"
"""What that links to: the library that torch's threads come from where they are GNU's, so that there is one set of them."""
_SYSTEMS = ("Linux", "Darwin")
_TIMEOUT_SECONDS = 120
REMEMBERED_SECONDS = 24 * 3600
"""What a compiler could not do, it is not asked for again so soon; a day, as what it lacks may be installed meanwhile."""
_FOLDER = Path(__file__).parent

Argument = Tensor | list[int] | list[float] | tuple[int, ...] | int | float | None


class NotCompiled(Exception):
    """There is no compiled code here; the text says why."""


def call(name: str, dtype: torch.dtype, *arguments: Argument) -> None:
    """Call a function of the code for `dtype`; tensors, and sequences of numbers, are given by their address.

    Raises:
        NotCompiled: If there is no code here.
    """
    function = getattr(library(dtype), name)
    if function.argtypes is None:  # the first time: what kind each argument is does not change
        function.argtypes, function.restype = list(map(_kind, arguments)), None
    function(*[_for_c(argument) for argument in arguments])


def up_to(multiple: int, count: int) -> int:
    """The first multiple that is no less than a count; UP_TO of numbers.h."""
    return -(-count // multiple) * multiple


@functools.cache
def pairs_are_fast() -> bool:
    """Whether the processor multiplies pairs of 16-bit numbers, so that the code beats torch's products of such numbers."""
    return bool(library(torch.bfloat16).pairs_are_fast())


def fingerprint() -> str:
    """Of the code that is there, of its compiler and of the processor: others may round elsewhere."""
    compiler = _compiler()
    return "" if compiler is None else _fingerprint(compiler)


def is_there() -> bool:
    """Whether the code can be called."""
    return why_not() is None


@functools.cache
def why_not() -> str | None:
    """Why there is no code, if there is none."""
    if os.environ.get("TUNESMITH_COMPILED", "on") == "off":
        return "TUNESMITH_COMPILED is off"
    try:
        with ThreadPoolExecutor() as at_once:  # the first time each takes some seconds
            list(at_once.map(library, FORMATS))
    except NotCompiled as reason:
        return str(reason)
    return None


@functools.cache
def shares_threads() -> bool:
    """Whether the threads that torch computes with, however many, share the loops of the code."""
    if not is_there():
        return False
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)  # which the code hears of if it asks the same library
    try:
        return library(torch.float32).num_threads_of_loops() == before + 1
    finally:
        torch.set_num_threads(before)


@functools.cache
def library(dtype: torch.dtype) -> ctypes.CDLL:
    """The code for a number format, compiled if it is not in the cache.

    Raises:
        NotCompiled: If that cannot be.
    """
    if platform.system() not in _SYSTEMS:
        raise NotCompiled(f"no code is compiled on {platform.system()}")
    compiler = _compiler()
    if compiler is None:
        raise NotCompiled("no C compiler is installed (cc, gcc or clang)")
    with contextlib.ExitStack() as stack:
        try:
            folder = _private_cache() or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            file = folder / f"{str(dtype).removeprefix('torch.')}-{_fingerprint(compiler)}.so"
            if not _is_private(file):
                _compile_or_remember(compiler, FORMATS[dtype], file)
            return _loaded(file)
        except OSError as error:
            raise NotCompiled(f"what {compiler} makes cannot be used: {error}") from None


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)


def _loaded(file: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(file))
    except OSError:
        with contextlib.suppress(OSError):
            file.unlink()  # the next run makes it again
        raise


def _private_cache() -> Path | None:
    """Where compiled code is kept; None if others could change what is there, or there is no such place."""
    try:
        folder = cache_folder() / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve(strict=True)
    except (OSError, RuntimeError):  # without a home, for one
        return None
    is_safe = _is_private(folder) and not any(map(_can_be_exchanged, folder.parents))
    return folder if is_safe and os.access(folder, os.W_OK) else None


def _is_private(path: Path) -> bool:
    """Whether a file or folder is there, is the user's, and nobody else can write to it."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _can_be_exchanged(folder: Path) -> bool:
    """Whether others than the user and the system could put something else in the place of what is in a folder."""
    found = folder.stat()
    if found.st_uid not in (0, os.getuid()):
        return True
    return bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) and not found.st_mode & stat.S_ISVTX


def _compile_or_remember(compiler: str, flags: Sequence[str], target: Path) -> None:
    """Compile unless the same failed not long ago.

    Raises:
        NotCompiled: If the compiler does not succeed, or did not then.
    """
    failure = target.with_suffix(".failed")
    if _is_private(failure) and time.time() - failure.stat().st_mtime < REMEMBERED_SECONDS:
        reason = failure.read_text(encoding="utf-8", errors="replace")
        raise NotCompiled(f"{reason} (some time ago; delete {failure} to try again)")
    try:
        _compile(compiler, flags, target)
    except NotCompiled as reason:
        failure.unlink(missing_ok=True)
        failure.write_text(str(reason), encoding="utf-8")
        failure.chmod(0o600)
        raise


def _compile(compiler: str, flags: Sequence[str], target: Path) -> None:
    """Compile into a file that is there whole or not at all.

    Raises:
        NotCompiled: If the compiler does not succeed.
    """
    reason = ""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, target.name)
        for processor, threads in itertools.product(_FOR_THIS_PROCESSOR, _threads()):
            command = [
                compiler,
                *_FLAGS,
                *processor,
                *threads,
                *flags,
                "-o",
                str(made),
                *map(str, sorted(_FOLDER.glob("*.c"))),
                "-lm",
            ]
            try:
                result = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)
            except subprocess.TimeoutExpired:
                raise NotCompiled(f"{compiler} took more than {_TIMEOUT_SECONDS} seconds") from None
            if result.returncode == 0:
                made.chmod(0o700)
                made.replace(target)
                return
            reason = next(iter(result.stderr.decode(errors="replace").splitlines()), f"exit code {result.returncode}")
    raise NotCompiled(f"{compiler} failed: {reason}")


@functools.cache
def _threads() -> tuple[tuple[str, ...], ...]:
    """Flags for loops that threads share, if these can be torch's; and none."""
    try:
        is_loaded = _TORCHS_THREADS in Path("/proc/self/maps").read_text()
    except OSError:
        is_loaded = False
    return ((_THREADS,), ()) if is_loaded else ((),)


def _fingerprint(compiler: str) -> str:
    """Of all that the compiled code depends on: what is compiled, by what, and for which processor."""
    digest = hashlib.sha256()
    for file in sorted([*_FOLDER.glob("*.c"), *_FOLDER.glob("*.h")]):
        digest.update(file.read_bytes())
    about = Path(compiler).resolve().stat()
    digest.update(
        f"{compiler} {about.st_size} {about.st_mtime_ns} {_FLAGS} {_threads()} {platform.machine()} {_processor()}".encode()
    )
    return digest.hexdigest()[:16]


@functools.cache
def _processor() -> str:
    """What distinguishes processors that run other code."""
    with contextlib.suppress(OSError):
        facts = Path("/proc/cpuinfo").read_text()
        return " ".join(re.findall(r"^(?:model name|flags|Features|cpu)\s*:.*$", facts, re.MULTILINE)[:2])
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, timeout=10, check=True).stdout.decode(errors="replace")
    return platform.node()


def _kind(argument: Argument) -> type[ctypes.c_long | ctypes.c_float | ctypes.c_void_p]:
    """How C takes an argument."""
    return {int: ctypes.c_long, bool: ctypes.c_long, float: ctypes.c_float}.get(type(argument), ctypes.c_void_p)


def _for_c(argument: Argument) -> object:
    """An argument as `ctypes` takes it."""
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    if isinstance(argument, list | tuple):
        return ((ctypes.c_float if isinstance(argument[0], float) else ctypes.c_long) * len(argument))(*argument)
    return argument
