"""Models of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from tunesmith.errors import ModelError, Offline, first_line

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


def snapshot(name: str, files: list[str]) -> Path:
    """A snapshot of the files of a hub repository that match one of the patterns."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    if not _HUB_ID.fullmatch(name):
        raise ModelError(f"There is no model {name!r}: no such folder or .gguf file, and it is no hub id (owner/name).")
    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(f"There is no model {name!r}: no such folder on this machine, and the hub does not know it.") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Offline(
            f"There is no folder {name!r} here, and the hub cannot be reached to look for it there ({first_line(error)}). "
            "Connect and try again, or give the path of a model folder, a .gguf file, or starter:smollm2 / starter:minilm."
        ) from None
