"""Who takes part: one line per configuration. Adding one to the table is all it takes to have it measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from benchmarks.workload import Order

# glibc maps large tensors anew at every step unless it is told to keep them; the same for every tuned contestant.
TUNED_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A contestant with its settings."""

    about: str
    module: Literal["peft", "tunesmith"]
    """File in this folder; also decides the environment."""
    precision: Literal["float32", "bfloat16"]
    rows_per_pass: int = 8
    order: Order = "given"
    pads: bool = True
    """Whether the rows of a pass are filled up to the longest."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables of the process."""


CONFIGURATIONS = {
    "peft-default": Configuration(
        about="PEFT + Trainer, float32, batch 8: what a newcomer runs", module="peft", precision="float32"
    ),
    "peft-best": Configuration(
        about="PEFT + Trainer, weights and adapter in bfloat16, 1 row x 8 accumulated, allocator tuned",
        module="peft",
        precision="bfloat16",
        rows_per_pass=1,
        variables=TUNED_ALLOCATOR,
    ),
    "peft-2x4": Configuration(
        about="as peft-best, 2 rows x 4 accumulated",
        module="peft",
        precision="bfloat16",
        rows_per_pass=2,
        variables=TUNED_ALLOCATOR,
    ),
    "peft-2x4-sorted": Configuration(
        about="as peft-best, 2 rows x 4 accumulated, the rows of every step sorted by length",
        module="peft",
        precision="bfloat16",
        rows_per_pass=2,
        order="sorted_in_step",
        variables=TUNED_ALLOCATOR,
    ),
    "peft-8x1-grouped": Configuration(
        about="as peft-best, batch 8, steps of rows of similar length",
        module="peft",
        precision="bfloat16",
        order="grouped",
        variables=TUNED_ALLOCATOR,
    ),
    "tunesmith": Configuration(
        about="tunesmith, settings left to itself", module="tunesmith", precision="bfloat16", pads=False
    ),
}
USUAL = ("peft-default", "peft-best", "tunesmith")
REFERENCE = "peft-default"
"""Float32 and unchanged: the loss curve that all others must follow."""
