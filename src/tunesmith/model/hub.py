"""Models of the Hugging Face hub."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from tunesmith.errors import DiskFull, ModelError, Offline, first_line
from tunesmith.model import bars
from tunesmith.watch import Watch

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


def snapshot(name: str, files: list[str], watch: Watch) -> Path:
    """A snapshot of the files of a hub repository that match one of the patterns; `watch` follows what must be fetched.

    Raises:
        ModelError: If the hub has no such model, or does not give it to this user.
        Offline: If the hub is out of reach.
        DiskFull: If there is no room for it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if not _HUB_ID.fullmatch(name):
        raise ModelError(f"There is no model {name!r}: no such folder or .gguf file, and it is no hub id (owner/name).")
    bar = bars.bar(f"fetching {name}", watch, first=f"fetching {name} from the hub, once", unit="B", counted="bytes")
    try:
        return Path(snapshot_download(name, allow_patterns=files, tqdm_class=bar))
    except GatedRepoError:  # a kind of RepositoryNotFoundError
        raise ModelError(
            f"The hub gives {name} only to those who have accepted its licence. Accept it on https://huggingface.co/{name} and "
            "sign in on this machine: hf auth login"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(f"There is no model {name!r}: no such folder on this machine, and the hub does not know it.") from None
    except OSError as error:  # the library's own errors are of this kind, too
        if error.errno == errno.ENOSPC:
            raise DiskFull(
                f"The disk has no room for {name}. Make room, or set HF_HOME to a folder on another disk, and try again; "
                "what has arrived is kept."
            ) from None
        raise Offline(
            f"There is no folder {name!r} here, and the hub cannot be reached to look for it there ({first_line(error)}). "
            "Connect and try again, or give the path of a model folder, a .gguf file, or starter:smollm2 / starter:minilm."
        ) from None
