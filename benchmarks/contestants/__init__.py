"""Who takes part: one line per configuration. Adding one to the table is all it takes to have it measured."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Literal

from benchmarks.job import Precision
from benchmarks.workload import Order

# glibc maps large tensors anew at every step unless it is told to keep them; the same for every tuned contestant.
TUNED_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


ON_GPU = {"CUDA_VISIBLE_DEVICES": "0"}
"""Every other contestant sees no GPU."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A contestant with its settings."""

    about: str
    module: Literal["peft", "adapters", "trl", "litgpt", "llamafactory", "tunesmith"]
    """File in this folder; also decides the environment."""
    wish: Literal["float32", "bfloat16", "auto", "autocast"]
    """Number format of weights and activations; `auto` is the one that this machine computes faster in, `autocast` the same
    with weights in float32."""
    base_bits: int = 16
    """Bits of each frozen weight of the linear layers: 16 leaves them as they are, 4 is QLoRA."""
    rows_per_pass: int | None = None
    """None: all rows of a step."""
    order: Order = "given"
    pads: bool = True
    """Whether the rows of a pass are filled up to the longest."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables of the process."""

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU; its memory is then that of tensors there."""
        return "CUDA_VISIBLE_DEVICES" in self.variables

    @property
    def precision(self) -> Precision:
        """The number format on this machine."""
        if self.wish == "autocast":
            return "autocast" if faster_here() == "bfloat16" else "float32"
        return faster_here() if self.wish == "auto" else self.wish


@functools.cache
def faster_here() -> Literal["float32", "bfloat16"]:
    """The format that tunesmith measures to be faster on this machine; peers get the same, to be at their best."""
    import torch

    from tunesmith.training import precision

    dtype, _ = precision.choose("auto", torch.device("cpu"))
    return "bfloat16" if dtype == torch.bfloat16 else "float32"


def _tuned(
    about: str,
    rows_per_pass: int | None,
    *,
    module: Literal["peft", "adapters", "trl", "litgpt", "llamafactory"] = "peft",
    order: Order = "given",
    wish: Literal["bfloat16", "auto", "autocast"] = "auto",
    base_bits: int = 16,
) -> Configuration:
    """A peer in a fast number format, with the allocator tuned."""
    formats = {"auto": "the faster number format", "bfloat16": "bfloat16", "autocast": "weights in float32, autocast if faster"}
    return Configuration(
        about=f"{PEERS[module]}, {about}, allocator tuned, {formats[wish]}",
        module=module,
        wish=wish,
        base_bits=base_bits,
        rows_per_pass=rows_per_pass,
        order=order,
        variables=TUNED_ALLOCATOR,
    )


def _newcomers(module: Literal["peft", "adapters"]) -> Configuration:
    """A peer as it comes."""
    about = f"{PEERS[module]}, float32, the whole step in one pass: what a newcomer runs"
    return Configuration(about=about, module=module, wish="float32")


PEERS = {
    "peft": "PEFT + Trainer",
    "adapters": "AdapterHub's adapters + Trainer",
    "trl": "TRL",
    "litgpt": "LitGPT",
    "llamafactory": "LLaMA-Factory",
}
CONFIGURATIONS = {
    "peft-default": _newcomers("peft"),
    "peft-best": _tuned("1 row at a time, accumulated", 1),
    "peft-autocast": _tuned("1 row at a time, accumulated", 1, wish="autocast"),
    "peft-2x4": _tuned("2 rows x 4 accumulated", 2),
    "peft-2x4-sorted": _tuned("2 rows x 4 accumulated, the rows of every step sorted by length", 2, order="sorted_in_step"),
    "peft-8x1-grouped": _tuned("batch 8, steps of rows of similar length", 8, order="grouped"),
    "peft-grouped": _tuned("the whole step in one pass, steps of rows of similar length", None, order="grouped"),
    "peft-sorted": _tuned("8 rows at a time, the rows of every step sorted by length", 8, order="sorted_in_step"),
    "peft-bfloat16": _tuned("1 row at a time, accumulated", 1, wish="bfloat16"),
    "peft-qlora": _tuned("over bitsandbytes' NF4, 1 row at a time, accumulated", 1, base_bits=4),
    "adapters-default": _newcomers("adapters"),
    "adapters-best": _tuned("1 row at a time, accumulated", 1, module="adapters"),
    "adapters-grouped": _tuned(
        "the whole step in one pass, steps of rows of similar length", None, module="adapters", order="grouped"
    ),
    "trl": _tuned("1 row at a time, accumulated", 1, module="trl"),
    "trl-packed": replace(_tuned("the rows of a step as one stream without padding", 8, module="trl"), pads=False),
    "litgpt": _tuned("1 row at a time, accumulated", 1, module="litgpt"),
    "llamafactory": _tuned("1 row at a time, accumulated", 1, module="llamafactory"),
    "tunesmith": Configuration(about="tunesmith, settings left to itself", module="tunesmith", wish="auto", pads=False),
    "tunesmith-qlora": Configuration(
        about="tunesmith --base-bits 4, settings left to itself", module="tunesmith", wish="auto", base_bits=4, pads=False
    ),
    "tunesmith-8bit": Configuration(
        about="tunesmith --base-bits 8, settings left to itself", module="tunesmith", wish="auto", base_bits=8, pads=False
    ),
    "peft-gpu": Configuration(
        about="PEFT + Trainer on a GPU, bfloat16, batch 8", module="peft", wish="bfloat16", variables=ON_GPU
    ),
    "tunesmith-gpu": Configuration(
        about="tunesmith on a GPU, settings left to itself",
        module="tunesmith",
        wish="bfloat16",
        pads=False,
        variables=ON_GPU,
    ),
}
