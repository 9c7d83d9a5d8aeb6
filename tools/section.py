"""A section of a page that is made by a program and stands between two markers, which stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Section:
    """What stands between `<!-- name -->` and `<!-- end of name -->`."""

    name: str

    def put(self, page: str, text: str) -> str:
        """The page with `text` as its section.

        Raises:
            ValueError: If a marker is missing.
        """
        start, end = f"<!-- {self.name} -->", f"<!-- end of {self.name} -->"
        before, rest = page.split(start)
        _, after = rest.split(end)
        return f"{before}{start}\n{text}\n{end}{after}"


def print_or_write(pages: Sequence[str], make: Callable[[], str], written: Callable[[str], str]) -> None:
    """Print what `make` gives, or put it into the pages named, by `written`, which takes and gives a whole page."""
    if not pages:
        print(make())
    for path in map(Path, pages):
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
