"""Progress bars of other libraries, which tell a watch how far they are and draw nothing."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

from tunesmith.watch import Progress, Watch

if TYPE_CHECKING:
    from tqdm.asyncio import tqdm


def bar(phase: str, watch: Watch, *, first: str = "", unit: str = "it", counted: str = "tensors") -> type[tqdm]:
    """A class to be used for tqdm's.

    Args:
        phase: What is being done.
        watch: Who is told.
        first: Said before the first progress.
        unit: Bars that count in another unit of tqdm are not followed.
        counted: What that unit is called to the watch.
    """
    from tqdm.asyncio import tqdm

    furthest = 0

    class Bar(tqdm):
        def __init__(self, *arguments: object, **settings: object) -> None:
            super().__init__(*arguments, **{**settings, "file": io.StringIO()})  # pyright: ignore

        def display(self, *_: object, **__: object) -> None:
            """Tell how far it is; of two bars for the same units, one may stand still."""
            nonlocal furthest
            if self.unit != unit or not self.total:
                return
            if not furthest and first:
                watch.say(first)
            furthest = max(furthest, int(self.n), 1)
            watch.progress(Progress(phase=phase, done=furthest, total=int(self.total), unit=counted))

    return Bar


@contextlib.contextmanager
def drawn_by(kind: type[tqdm], module: ModuleType) -> Iterator[None]:
    """Let a module that takes no class for its bars use this one."""
    names = vars(module)
    own = names.get("tqdm")
    names["tqdm"] = kind
    try:
        yield
    finally:
        names["tqdm"] = own
