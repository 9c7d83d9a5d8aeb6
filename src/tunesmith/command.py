"""The contract of a command: a dataclass whose fields are its arguments and whose docstring is its help."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar


@dataclass(kw_only=True)
class Command(ABC):
    """One subcommand of `tunesmith`. Its module imports neither torch nor transformers at import time."""

    name: ClassVar[str]
    """The word on the command line; equal to the name of the file."""
    example: ClassVar[str]
    """A complete line to copy, shown on top of `--help`."""

    @abstractmethod
    def run(self) -> int:
        """Do it and return the exit code.

        Raises:
            TunesmithError: With the exit code that the process ends with.
        """
