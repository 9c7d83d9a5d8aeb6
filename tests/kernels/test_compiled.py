"""Compiled code is made once, kept where only its user can write, and done without where it cannot be made."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tunesmith.kernels.cpu import compiled

needs_compiler = pytest.mark.skipif(bool(compiled.why_not()), reason="needs a C compiler")
library, why_not = compiled.library.__wrapped__, compiled.why_not.__wrapped__


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that compiled code is kept in."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def _compiler(folder: Path, script: str) -> str:
    """A compiler that does what a script says."""
    file = folder / "compiler"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


@needs_compiler
def test_it_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = library(torch.float32)
    [file] = cache.iterdir()
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("compiled again"))
    assert isinstance(library(torch.float32), type(first))
    assert file.stat().st_mode & 0o022 == 0


@needs_compiler
def test_each_number_format_has_code_of_its_own(cache: Path):
    for dtype in compiled.FORMATS:
        library(dtype)
    assert {file.name.partition("-")[0] for file in cache.iterdir()} == {"float32", "bfloat16"}


@needs_compiler
def test_a_folder_that_others_write_to_is_not_trusted(cache: Path):
    cache.mkdir()
    cache.chmod(0o777)
    assert isinstance(library(torch.float32), ctypes.CDLL)
    assert list(cache.iterdir()) == []


@needs_compiler
def test_a_file_that_others_write_to_is_made_again(cache: Path):
    library(torch.float32)
    [file] = cache.iterdir()
    file.chmod(0o777)
    before = file.stat().st_ino
    library(torch.float32)
    assert (file.stat().st_ino != before, file.stat().st_mode & 0o777) == (True, 0o700)


@needs_compiler
def test_a_folder_in_one_that_others_write_to_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They could put their own in its place."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("TUNESMITH_CACHE", str(shared / "cache"))
    assert isinstance(library(torch.float32), ctypes.CDLL)
    assert list((shared / "cache" / "kernels").iterdir()) == []


@needs_compiler
def test_without_a_home(monkeypatch: pytest.MonkeyPatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiled, "cache_folder", homeless)
    assert isinstance(library(torch.float32), ctypes.CDLL)


@needs_compiler
def test_a_damaged_file_is_made_again_by_the_next_run(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library(torch.float32)
    [name] = [file.name for file in cache.iterdir()]
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "kernels").mkdir(mode=0o700)
    (tmp_path / "other" / "kernels" / name).write_bytes(b"\x7fELF and no more")
    (tmp_path / "other" / "kernels" / name).chmod(0o700)
    with pytest.raises(compiled.NotCompiled, match="cannot be used"):
        library(torch.float32)
    assert isinstance(library(torch.float32), ctypes.CDLL)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(compiled.NotCompiled, match="no C compiler is installed"):
        library(torch.float32)


def test_elsewhere_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled.platform, "system", lambda: "Windows")
    with pytest.raises(compiled.NotCompiled, match="no code is compiled on"):
        library(torch.float32)


def test_a_full_disk(cache: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiled, "_compile", full)
    with pytest.raises(compiled.NotCompiled, match="No space left on device"):
        library(torch.float32)


def test_what_a_compiler_cannot_do_it_is_asked_for_once_a_day(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Failures took 13 seconds of every process."""
    forms = len(compiled._FOR_THIS_PROCESSOR) * len(compiled._threads())
    monkeypatch.setenv("CC", _compiler(tmp_path, f"echo asked >> {tmp_path}/asked; echo numbers.h: it cannot be >&2; exit 3"))
    with pytest.raises(compiled.NotCompiled, match=r"compiler failed: numbers.h: it cannot be$"):
        library(torch.float32)
    [remembered] = cache.iterdir()
    with pytest.raises(compiled.NotCompiled, match=f"delete {remembered} to try again"):
        library(torch.float32)
    assert len((tmp_path / "asked").read_text().split()) == forms
    os.utime(remembered, (0, time.time() - compiled.REMEMBERED_SECONDS - 1))
    with pytest.raises(compiled.NotCompiled, match="it cannot be"):
        library(torch.float32)
    assert len((tmp_path / "asked").read_text().split()) == 2 * forms


def test_a_failure_that_others_could_have_written_is_not_believed(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", _compiler(tmp_path, "echo no >&2; exit 3"))
    with pytest.raises(compiled.NotCompiled):
        library(torch.float32)
    [remembered] = cache.iterdir()
    remembered.write_text("theirs")
    remembered.chmod(0o666)
    with pytest.raises(compiled.NotCompiled, match="compiler failed: no"):
        library(torch.float32)


@needs_compiler
def test_what_a_mended_compiler_makes_is_taken(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", _compiler(tmp_path, "exit 3"))
    with pytest.raises(compiled.NotCompiled, match="exit code 3"):
        library(torch.float32)
    _compiler(tmp_path, 'exec cc "$@"')
    assert isinstance(library(torch.float32), ctypes.CDLL)


@needs_compiler
def test_a_compiler_that_knows_no_native_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refusing = 'case "$*" in *=native*) echo unknown >&2; exit 1;; esac; exec cc "$@"'
    monkeypatch.setenv("CC", _compiler(tmp_path, refusing))
    assert isinstance(library(torch.float32), ctypes.CDLL)


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNESMITH_COMPILED", "off")
    assert why_not() == "TUNESMITH_COMPILED is off"


@pytest.mark.skipif(compiled._compiler() is None or os.environ.get("TUNESMITH_COMPILED") == "off", reason="needs a C compiler")
def test_where_there_is_a_compiler_there_is_code():
    """Or every test that needs it is skipped, and nothing tells."""
    assert compiled.why_not() is None


@pytest.mark.skipif(platform.machine() != "x86_64" or compiled._compiler() is None, reason="needs an x86 and a compiler")
@pytest.mark.parametrize("processor", ["haswell", "cascadelake"])
def test_the_code_is_right_for_processors_with_some_of_the_instructions(processor: str):
    """Products of whole numbers came three years before those of bfloat16, and the oldest have neither."""
    compiler = compiled._compiler()
    assert compiler is not None
    flags = ["-std=gnu11", "-fsyntax-only", "-Werror", "-Wno-psabi", f"-march={processor}", *compiled.FORMATS[torch.bfloat16]]
    done = subprocess.run(
        [compiler, *flags, *map(str, compiled._FOLDER.glob("*.c"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_compilers_of_some_age_know_what_the_code_is_written_in():
    """With one builtin that a compiler lacks there is no compiled code at all; gcc has `shufflevector` from 12 on only."""
    sources = [*compiled._FOLDER.glob("*.c"), *compiled._FOLDER.glob("*.h")]
    used = {word for file in sources for word in re.findall(r"__builtin_\w+", file.read_text())}
    assert used <= {"__builtin_convertvector", "__builtin_prefetch"}  # gcc 9 (2019) has both, clang longer
