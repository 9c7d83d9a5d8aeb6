"""A watch that remembers what it was told."""

from __future__ import annotations

from dataclasses import dataclass, field

from tunesmith.watch import Progress


@dataclass
class Notes:
    said: list[str] = field(default_factory=list)
    """Facts and warnings."""
    seen: list[Progress] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)

    def progress(self, progress: Progress) -> None:
        self.seen.append(progress)
