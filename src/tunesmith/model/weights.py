"""The weight of a linear layer for those who compute with it or change it, however it is stored."""

from __future__ import annotations

from torch import Tensor, nn

from tunesmith.errors import NotMergeable
from tunesmith.kernels.frozen_linear import FrozenWeight
from tunesmith.model.anatomy import linear_weight
from tunesmith.model.quantized_linear import QuantizedLinear


def frozen(module: nn.Module) -> FrozenWeight:
    """The weight (outputs, inputs) to compute with where it does not learn: in few bits, if that is how it is stored."""
    return module.stored if isinstance(module, QuantizedLinear) else linear_weight(module)


def writable(module: nn.Module) -> Tensor:
    """The weight as (outputs, inputs), to be changed in place.

    Raises:
        NotMergeable: If it is stored in few bits.
    """
    if isinstance(module, QuantizedLinear):
        raise NotMergeable("The base model is quantised: its steps are too coarse for a change. Dequantise it first.")
    return linear_weight(module)
