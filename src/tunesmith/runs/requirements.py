"""What a run refuses before it costs anything."""

from __future__ import annotations

import torch

from tunesmith.data.prepared import PreparedData
from tunesmith.errors import DataError, SettingsError
from tunesmith.method import Method
from tunesmith.training import workers


def require_frozen(base_bits: int, method: Method) -> None:
    """Refuse to train weights that are stored too coarsely to learn.

    Raises:
        SettingsError: If the method trains the base model's own weights, and these are to be quantised.
    """
    if base_bits < 16 and method.trains_base_weights:
        raise SettingsError(
            f"--base-bits {base_bits} stores the base model's weights too coarsely to be trained, and {method.name!r} trains "
            "them. Use a method that adds weights of its own, such as --method qlora, or leave --base-bits out."
        )


def require_workers(num_processes: int | None, device: torch.device) -> None:
    """Refuse to share the work where this cannot be done.

    Raises:
        SettingsError: If several processes are asked for.
    """
    if num_processes is not None and num_processes > 1 and not workers.are_possible(device):
        raise SettingsError(f"--workers {num_processes} needs Linux and trains on the CPU only. Leave it out.")


def require_held_out(data: PreparedData) -> None:
    """Refuse to train where nothing could be said of the result.

    Raises:
        DataError: If a part has no row.
    """
    if not len(data.validation.tokens):
        purpose, cure = "to choose the best checkpoint", "more rows or a larger --validation-share"
    elif not len(data.test.tokens):
        purpose, cure = "to test", "more rows, a larger --test-share, or rows by --eval"
    else:
        return
    raise DataError(f"No row of {data.name} is held out {purpose}. Give {cure}.")
