"""Which number format the machine at hand computes faster in, and how a model is stored in it."""

import time
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.model import anatomy, surgery

WORTH = 1.15  # bfloat16 must be at least this many times faster: it costs accuracy
_PROBE_SIZE = (256, 576, 1536)  # rows, inputs, outputs: a layer of a small model
_PROBE_SECONDS = 0.025  # for each of the two formats, in each try
_PROBE_TRIES = 3


def choose(wish: Literal["auto", "float32", "bfloat16"], device: torch.device) -> tuple[torch.dtype, str]:
    """The format for frozen weights and activations, and the sentence that says why."""
    if wish != "auto":
        return getattr(torch, wish), f"computing in {wish}, as asked"
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return (
            (torch.bfloat16, "computing in bfloat16")
            if supported
            else (torch.float32, "computing in float32: no bfloat16 here")
        )
    # In turn, and the best of each: other work on the machine disturbs some tries.
    tries = [(_products_per_second(torch.float32), _products_per_second(torch.bfloat16)) for _ in range(_PROBE_TRIES)]
    in_float32, in_bfloat16 = map(max, zip(*tries, strict=True))
    ratio = in_bfloat16 / in_float32
    if ratio >= WORTH:
        return torch.bfloat16, f"computing in bfloat16: measured {ratio:.1f} x as fast as float32 on this processor"
    return torch.float32, f"computing in float32: bfloat16 measured {ratio:.1f} x as fast on this processor"


def store_frozen(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Store the base model in `dtype`, once; a classification head and a pooler stay float32, they are small and exact there.

    For methods that leave the base weights alone: call it before they attach.
    """
    surgery.cast(model, dtype, keep=_head(model))


def store_rest(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Store in `dtype` what a method that trains some of the base weights leaves alone; call it after it has attached."""
    surgery.cast(model, dtype, keep=_head(model), only_frozen=True)


def stored_as(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Names of the base weights that a method which trains them keeps in `dtype`, with float32 masters in the optimizer."""
    if dtype == torch.float32:
        return {}
    kept = {id(p) for module in _head(model) for p in module.parameters()}
    return {name: dtype for name, p in model.named_parameters() if id(p) not in kept}


def _head(model: PreTrainedModel) -> frozenset[nn.Module]:
    """The task head and the pooler, but not the output embeddings, which are often the input's too."""
    output = model.get_output_embeddings()
    return frozenset(m for m in anatomy.head_modules(model) if m is not output)


@torch.no_grad()
def _products_per_second(dtype: torch.dtype) -> float:
    """How often the three products of a linear layer's step can be taken, measured over `_PROBE_SECONDS`."""
    rows, d_in, d_out = _PROBE_SIZE
    x, w, dy = (torch.full(size, 0.5, dtype=dtype) for size in ((rows, d_in), (d_out, d_in), (rows, d_out)))

    def products() -> tuple[Tensor, Tensor, Tensor]:
        return x @ w.t(), dy @ w, dy.t() @ x

    products()
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < _PROBE_SECONDS:
        products()
        count += 1
    return count / elapsed
