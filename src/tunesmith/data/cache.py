"""Prepared rows in the user's cache, so that a second run with the same data starts at once.

An entry is a folder named by a SHA-256 over everything that the rows depend on: the bytes and names of the data files, the
tokenizer, the settings, the versions of the libraries and of this package. It holds `rows.safetensors` and `prepared.json`,
both checked by SHA-256 when they are read; what is damaged is removed and made anew. When all entries together would be
larger than MAX_BYTES, those not used for longest go first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import durable
from tunesmith.data.files import find_files, fingerprint, kind_of
from tunesmith.data.hub import is_id
from tunesmith.data.read import name_of, short_names
from tunesmith.data.stored import Damaged, read_entry, size_of, write_entry
from tunesmith.errors import DiskFull, RunError
from tunesmith.quantity import format_bytes
from tunesmith.starter.resolve import cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunesmith.data.prepared import PreparedData
    from tunesmith.settings import DataSettings

MAX_BYTES = 4 * 2**30
"""All entries together."""
_PACKAGES = ("tunesmith", "tokenizers", "transformers", "numpy", "pyarrow", "jinja2")


@dataclass
class PreparedCache:
    """The place of one call's prepared rows, if there is one."""

    place: Path | None = None
    fingerprint: str = ""
    """Of the data, when the key was made."""
    notes: list[str] = field(default_factory=list)
    """What is worth saying."""

    @classmethod
    def of(cls, settings: DataSettings, tokenizer: PreTrainedTokenizerBase, facts: Mapping[str, object]) -> PreparedCache:
        """The place for rows prepared in this way; none for data of a hub, which has a cache of its own, or without a cache.

        Args:
            settings: Which files, and how to read and split them.
            tokenizer: The model's.
            facts: All else that the rows depend on.

        Raises:
            DataError: If there are no such files.
        """
        sets = [settings.data] if settings.eval is None else [settings.data, (settings.eval,)]
        if settings.cache == "off" or any(len(paths) == 1 and is_id(paths[0]) for paths in sets):
            return cls()
        try:
            files = [_facts_of_files(paths) for paths in sets]
        except OSError:  # reading says what is wrong with it
            return cls()
        chosen = {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("data", "eval", "cache")}
        parts = {"files": files, "settings": chosen, "facts": dict(facts), "tokenizer": _facts_of_tokenizer(tokenizer)}
        key = hashlib.sha256(json.dumps({**parts, "code": _facts_of_code()}, sort_keys=True).encode()).hexdigest()
        return cls(cache_folder() / "prepared" / key, "+".join(str(own["sha256"]) for own in files))

    def load(self) -> PreparedData | None:
        """The rows, if they were kept."""
        if self.place is None:
            return None
        if not self.place.is_dir():
            return None
        try:
            data = read_entry(self.place)
        except (Damaged, OSError) as error:
            if self.place.is_dir():  # else another process has just made room
                self.notes.append(f"the prepared rows in the cache are damaged ({error}); they are made anew")
                with contextlib.suppress(OSError), _locked(self.place.parent):
                    durable.remove(self.place)
            return None
        with contextlib.suppress(OSError):
            os.utime(self.place)
        self.notes.append("took the prepared rows from the cache (--cache off makes them anew)")
        return data

    def store(self, data: PreparedData) -> None:
        """Keep the rows; where that is not possible, this is noted and nothing else happens."""
        if self.place is None or self.fingerprint != "+".join(data.fingerprints):
            return  # the files were changed while they were read
        needed_bytes = size_of(data)
        try:
            if needed_bytes > MAX_BYTES:
                raise RunError(f"they take {format_bytes(needed_bytes)}, the cache holds {format_bytes(MAX_BYTES)}")
            self.place.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.place.parent):
                if not self.place.exists():
                    durable.discard_leftovers(self.place.parent)
                    _make_room(self.place.parent, needed_bytes)
                    with durable.whole_folder(self.place, needed_bytes) as folder:
                        write_entry(folder, data)
        except (OSError, RunError, DiskFull) as error:
            self.notes.append(f"the prepared rows are not kept in the cache: {error} (--cache off does not try)")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the cache for a while."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_room(folder: Path, needed_bytes: int) -> None:
    """Remove what was not used for longest until so much fits in."""
    entries = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    sizes = [sum(file.stat().st_size for file in entry.iterdir()) for entry in entries]
    total = sum(sizes)
    for entry, size in zip(entries, sizes, strict=True):
        if total + needed_bytes <= MAX_BYTES:
            return
        durable.retire(entry)
        total -= size


def _facts_of_files(paths: tuple[str, ...]) -> dict[str, object]:
    """The names and bytes of the data files."""
    files, about = find_files(paths)
    names = {"names": short_names(files), "about": short_names(about), "name": name_of(paths)}
    return {**names, "kinds": [kind_of(file) for file in files], "sha256": fingerprint(files)}


def _facts_of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """What decides on the tokens of a text and of a conversation."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {
        "class": type(tokenizer).__name__,
        "engine": None if backend is None else hashlib.sha256(backend.to_str().encode()).hexdigest(),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "all_special": [str(token) for token in tokenizer.all_special_tokens],
        "added": {str(number): [t.content, t.special] for number, t in tokenizer.added_tokens_decoder.items()},
        "inputs": list(tokenizer.model_input_names),
        "template": tokenizer.chat_template,
    }


def _facts_of_code() -> dict[str, object]:
    """The versions of what prepares, down to the text of this package: a format version that nobody can forget to raise."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return {"data": digest.hexdigest(), "python": platform.python_version(), **{n: metadata.version(n) for n in _PACKAGES}}
