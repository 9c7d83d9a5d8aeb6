"""Full fine-tuning: every weight learns. The baseline that all other methods are compared with."""

from dataclasses import dataclass

from torch import nn

from tunesmith.method import Method


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Train all parameters."""

    name = "full"
    paper = "none: the baseline"
    trains_base_weights = True
    trains_all_weights = True
    learning_rate = 2e-5
    learning_rate_small = 1e-4

    def attach(self, model: nn.Module) -> None:
        model.requires_grad_(True)

    def merge(self, model: nn.Module) -> None:
        pass  # the base weights are the trained ones
