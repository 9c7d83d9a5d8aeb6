"""BitFit: train the biases of the model and nothing else.

y = W x + b      b: (d_out,)

Only biases learn. A model without biases has one kind of vector only, the scales of its norms: there they learn.
"""

from dataclasses import dataclass

from torch import nn

from tunesmith.method import Method
from tunesmith.model import anatomy, surgery


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """Training of the biases, or of the norms' scales in a model that has no biases."""

    name = "bitfit"
    paper = "https://arxiv.org/abs/2106.10199"
    trains_base_weights = True
    learning_rate = 1e-3
    learning_rate_small = 5e-3

    def attach(self, model: nn.Module) -> None:
        head = anatomy.new_head_parameters(model)
        vectors = [n for n, p in model.named_parameters() if p.ndim == 1 and n not in head]
        biases = [n for n in vectors if n.rpartition(".")[2] == "bias"]
        surgery.freeze(model)
        surgery.thaw(model, [*(biases or vectors), *head])

    def merge(self, model: nn.Module) -> None:
        pass  # the base vectors are the trained ones
