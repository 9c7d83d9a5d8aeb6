"""The virtual environment of the peer, made once from `environments/peft.txt` and again whenever that file changes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "environments" / "peft.txt"
FOLDER = ROOT / ".venv-peft"
STAMP = FOLDER / "requirements.sha256"


def python() -> Path:
    """The interpreter of the peer's environment, which is created where it is missing or out of date.

    Raises:
        subprocess.CalledProcessError: pip could not install the requirements.
    """
    interpreter = FOLDER / "bin" / "python"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if interpreter.exists() and STAMP.exists() and STAMP.read_text() == digest:
        return interpreter
    venv.create(FOLDER, with_pip=True, clear=True)
    install = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # torch first and alone: nothing else may choose its build.
    subprocess.run([*install, exact("torch", REQUIREMENTS.read_text())], check=True, stdout=sys.stderr)
    subprocess.run([*install, "-r", str(REQUIREMENTS)], check=True, stdout=sys.stderr)
    STAMP.write_text(digest)
    return interpreter


def exact(package: str, requirements: str) -> str:
    """The pinned line of a package.

    Raises:
        ValueError: The package is not pinned.
    """
    for line in requirements.splitlines():
        if line.startswith(f"{package}=="):
            return line.strip()
    raise ValueError(f"{package} is not pinned in {REQUIREMENTS.name}.")
