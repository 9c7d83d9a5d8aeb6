"""The virtual environment of a peer, made once from `environments/PEER.txt` and again whenever that file changes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / "benchmarks" / "environments"


def python(peer: str = "peft") -> Path:
    """The interpreter of the peer's environment, which is created where it is missing or out of date.

    What `environments/alone/PEER.txt` lists, where there is one, is installed without its dependencies.

    Raises:
        subprocess.CalledProcessError: pip could not install the requirements.
    """
    requirements, folder = ENVIRONMENTS / f"{peer}.txt", ROOT / f".venv-{peer}"
    interpreter, stamp = folder / "bin" / "python", folder / "requirements.sha256"
    alone = ENVIRONMENTS / "alone" / f"{peer}.txt"
    listed = [path.read_bytes() for path in (requirements, alone) if path.exists()]
    digest = hashlib.sha256(b"".join(listed)).hexdigest()
    if interpreter.exists() and stamp.exists() and stamp.read_text() == digest:
        return interpreter
    venv.create(folder, with_pip=True, clear=True)
    install = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # torch first and alone: nothing else may choose its build.
    subprocess.run([*install, exact("torch", requirements)], check=True, stdout=sys.stderr)
    subprocess.run([*install, "-r", str(requirements)], check=True, stdout=sys.stderr)
    if alone.exists():
        subprocess.run([*install, "--no-deps", "-r", str(alone)], check=True, stdout=sys.stderr)
    stamp.write_text(digest)
    return interpreter


def exact(package: str, requirements: Path) -> str:
    """The pinned line of a package.

    Raises:
        ValueError: The package is not pinned.
    """
    for line in requirements.read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line.strip()
    raise ValueError(f"{package} is not pinned in {requirements.name}.")
