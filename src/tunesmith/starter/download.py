"""Downloads one pinned file with the ordinary pip client, which checks its SHA-256 before it opens it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tunesmith.errors import DiskFull, Offline, TunesmithError
from tunesmith.quantity import format_bytes
from tunesmith.starter import backend
from tunesmith.starter.pins import Pin

_BUILD_BACKENDS = ("setuptools/build_meta.py", "hatchling/build.py")
_POLL_SECONDS = 0.25


def download(pin: Pin, folder: Path, progress: Callable[[int], None]) -> Path:
    """The pinned file, downloaded into `folder`; `progress` is called with the bytes that have arrived so far.

    Raises:
        Offline: If the package index cannot be reached or does not have the file.
        DiskFull: If there is too little room.
        TunesmithError: If pip is missing or the file is not the pinned one.
    """
    needed, free = 3 * pin.size_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFull(f"starter:{pin.name} needs {format_bytes(needed)} in {folder}, which has {format_bytes(free)} left.")
    requirements, output, log = folder / "requirements.txt", folder / "download", folder / "pip.log"
    requirements.write_text(f"{pin.package}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
    temporary = folder / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "--dest", str(output), "--requirement", str(requirements)]
    command += ["--only-binary", ":all:"] if pin.is_wheel else ["--no-binary", ":all:", "--no-build-isolation"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=_environment(pin, folder))
        try:
            while process.poll() is None:
                progress(min(_size(temporary), pin.size_bytes))
                _wait(process)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise _failure(pin, log.read_text(encoding="utf-8", errors="replace"))
    return output / pin.archive


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Return when the process has ended or a moment has passed."""
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return


def _environment(pin: Pin, folder: Path) -> dict[str, str]:
    """The environment of pip: the user's own settings, a private temporary folder, and a backend that builds nothing."""
    environment = {
        **os.environ,
        "TMPDIR": str(folder / "temporary"),
        "PIP_RESUME_RETRIES": os.environ.get("PIP_RESUME_RETRIES", "5"),
    }
    if not pin.is_wheel:
        source = Path(backend.__file__).read_text(encoding="utf-8")
        for module in _BUILD_BACKENDS:
            path = folder / "backend" / module
            path.parent.mkdir(parents=True)
            (path.parent / "__init__.py").touch()
            path.write_text(source, encoding="utf-8")
        environment |= {
            "PYTHONPATH": str(folder / "backend"),
            "PIP_USE_PEP517": "1",
            backend.PACKAGE_VARIABLE: pin.package,
            backend.VERSION_VARIABLE: pin.version,
        }
    return environment


def _size(folder: Path) -> int:
    """Bytes of all files below `folder` at the moment; files that vanish meanwhile count nothing."""
    size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                size += (Path(root) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return size


def _failure(pin: Pin, log: str) -> TunesmithError:
    """What went wrong, from what pip wrote."""
    asked = f"starter:{pin.name} ({pin.archive}, {format_bytes(pin.size_bytes)})"
    if "No module named pip" in log:
        return TunesmithError(f"{asked} is fetched with pip, and this environment has none. Run: {sys.executable} -m ensurepip")
    if "DO NOT MATCH THE HASHES" in log:
        return TunesmithError(
            f"The package index gave another file than the pinned one for {asked}: its SHA-256 is not {pin.sha256}. "
            "Nothing of it was unpacked. Check which package index pip uses (`pip config list`)."
        )
    if "No space left on device" in log:
        return DiskFull(f"The disk became full while fetching {asked}. Make room, or set TUNESMITH_CACHE to another folder.")
    lines = [line.strip() for line in log.splitlines() if "ERROR" in line] or log.strip().splitlines()[-2:]
    reason = " ".join(lines) or "pip gave no reason"
    return Offline(
        f"{asked} could not be fetched from the package index. Are you offline? It is needed once, then kept in the cache. "
        f"pip says: {reason}"
    )
