"""Fine-tune pre-trained transformers with every standard method, and prove what came of it.

The names below are the public interface. Each is imported when it is first used, so that `import tunesmith`
costs no more than this file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.api import Run, fit, fit_many, load
    from tunesmith.errors import TunesmithError
    from tunesmith.method import Method
    from tunesmith.methods.full import Full
    from tunesmith.methods.lora import LoRA
    from tunesmith.strategy import Strategy

__version__ = "0.1.0"

_HOMES = {
    "Full": "tunesmith.methods.full",
    "LoRA": "tunesmith.methods.lora",
    "Method": "tunesmith.method",
    "Run": "tunesmith.api",
    "Strategy": "tunesmith.strategy",
    "TunesmithError": "tunesmith.errors",
    "fit": "tunesmith.api",
    "fit_many": "tunesmith.api",
    "load": "tunesmith.api",
}

__all__ = ["Full", "LoRA", "Method", "Run", "Strategy", "TunesmithError", "__version__", "fit", "fit_many", "load"]


def __getattr__(name: str) -> object:
    """The public name `name`, imported from its home.

    Raises:
        AttributeError: If it is not one of the public names.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'tunesmith' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    from tunesmith import collector

    with collector.paused():
        value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
