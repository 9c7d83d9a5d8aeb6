"""One folder is one kind of plug-in: list its names, look one up, suggest the nearest.

A plug-in is a file; its name is the file's name with `-` for `_`. Listing reads file names only, so nothing
heavy is imported until one plug-in is looked up.
"""

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from typing import TypeVar

from tunesmith.errors import UnknownName

Plugin = TypeVar("Plugin")
METHODS = "tunesmith.methods"
"""The folder of the methods."""


def names(package: str) -> list[str]:
    """Sorted names of all plug-ins in `package` (dotted path), without importing them."""
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return sorted(_public(m.name) for m in pkgutil.iter_modules(locations) if not m.name.startswith("_"))


def find(package: str, name: str, contract: type[Plugin]) -> type[Plugin]:
    """The one class in `package`'s file `name` that keeps `contract`.

    Raises:
        UnknownName: If there is no such file; the message names the nearest.
    """
    known = names(package)
    if name not in known:
        raise unknown(package.rsplit(".", 1)[-1].rstrip("s"), name, known)
    module = importlib.import_module(f"{package}.{name.replace('-', '_')}")
    own = [
        c for c in vars(module).values() if isinstance(c, type) and issubclass(c, contract) and c.__module__ == module.__name__
    ]
    assert len(own) == 1, f"{module.__name__} must define exactly one {contract.__name__}, found {len(own)}"
    return own[0]


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """An error that says what exists and what was probably meant."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownName(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")


def _public(file_name: str) -> str:
    return file_name.replace("_", "-")
