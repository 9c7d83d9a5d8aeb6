"""AdamW over one flat buffer: a few large operations a step, however many tensors learn.

Every trained parameter becomes a view of a flat float32 buffer and so does its gradient; the norm of all gradients,
the update and the zeroing are one operation each. A parameter stored in fewer bits keeps its float32 master in the buffer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8
_PART = 4096  # numbers that are squared and summed in float32
_PIECE = 2**20  # numbers that are made float32 at a time


@dataclass
class _Group:
    """Parameters of one decay and rate, one after the other in `values` and `gradients`, each `(elements,)`."""

    names: list[str]
    parameters: list[nn.Parameter]
    values: nn.Parameter
    gradients: Tensor
    rate: float
    """What the learning rate is multiplied by."""
    low_precision: dict[nn.Parameter, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """The master and the gradient's sum of those that are not float32 themselves."""

    def views(self, buffer: Tensor) -> list[Tensor]:
        """A buffer `(elements,)` as tensors of the parameters' shapes."""
        pieces = buffer.split([p.numel() for p in self.parameters])
        return [piece.view(p.shape) for piece, p in zip(pieces, self.parameters, strict=True)]

    def live_in(self, values: Tensor, gradients: Tensor) -> None:
        """Let the values and gradients be these buffers, and parameters that are float32 be views of them."""
        self.values.data, self.gradients, self.low_precision = values, gradients, {}
        for parameter, value, gradient in zip(self.parameters, self.views(values), self.views(gradients), strict=True):
            if parameter.dtype == torch.float32:
                parameter.data, parameter.grad = value, gradient
            else:
                self.low_precision[parameter] = value, gradient

    def take_gradient(self, parameter: Tensor) -> None:
        """Add the gradient of a low-precision parameter to its sum; it is gone then."""
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None
        _, total = self.low_precision[parameter]
        for part, added in zip(total.view(-1).split(_PIECE), parameter.grad.reshape(-1).split(_PIECE), strict=True):
            part.add_(added)
        parameter.grad = None


class FlatAdamW:
    """Decoupled weight decay Adam; decay acts on matrices only, not on norms and biases."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        weight_decay: float,
        stored_as: Mapping[str, torch.dtype] | None = None,
        rate_of: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        """Take over the parameters that learn; those named in `stored_as` compute in that type, their masters in float32.

        `rate_of` gives what the learning rate is multiplied by for the parameter of a name.
        """
        trained = [(n, p) for n, p in named_parameters if p.requires_grad]
        kinds: dict[tuple[bool, float], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in trained:
            kinds.setdefault((parameter.ndim <= 1, rate_of(name)), []).append((name, parameter))
        self._groups = [_flatten(kinds[kind], stored_as or {}, kind[1]) for kind in sorted(kinds)]
        decays = [weight_decay if g.parameters[0].ndim > 1 else 0.0 for g in self._groups]
        self._adamw = torch.optim.AdamW(
            [{"params": [g.values], "weight_decay": decay} for g, decay in zip(self._groups, decays, strict=True)],
            betas=BETAS,
            eps=EPSILON,
            fused=True,
        )

    def gradient_norm(self) -> Tensor:
        """Length of the gradient of everything that learns, a float64 scalar where the gradients are."""
        return torch.linalg.vector_norm(torch.stack([length(group.gradients) for group in self._groups]))

    def step(self, learning_rate: float, factor: float = 1.0) -> None:
        """Move the weights along the gradients times `factor`, and forget the gradients."""
        for group, settings in zip(self._groups, self._adamw.param_groups, strict=True):
            settings["lr"] = learning_rate * group.rate
            group.values.grad = group.gradients if factor == 1.0 else group.gradients.mul_(factor)
        self._adamw.step()
        for group in self._groups:
            for parameter, (master, _) in group.low_precision.items():
                parameter.data.copy_(master)
        self.forget()

    def forget(self) -> None:
        """Set all gradients to zero."""
        for group in self._groups:
            group.gradients.zero_()

    def forget_moments(self) -> None:
        """Drop both moments of all that learns, where no step is to be taken."""
        self._adamw.state.clear()

    def trained(self) -> dict[str, Tensor]:
        """Every trained parameter by name, in float32, as views."""
        return {
            name: view
            for group in self._groups
            for name, view in zip(group.names, group.views(group.values.detach()), strict=True)
        }

    @property
    def sizes(self) -> list[int]:
        """Elements of each group's buffer."""
        return [group.values.numel() for group in self._groups]

    def keep_values_in(self, empty: Callable[[int, torch.dtype], Tensor]) -> None:
        """Move all that learns, as it is computed with, to memory that `empty` gives for a number of elements of a type."""
        for group in self._groups:
            values = empty(group.values.numel(), torch.float32).copy_(group.values.detach())
            group.live_in(values, group.gradients)
            for parameter in group.low_precision:
                stored = empty(parameter.numel(), parameter.dtype).view(parameter.shape)
                parameter.data = stored.copy_(parameter.detach())

    def add_gradients_in(self, buffers: Sequence[Tensor]) -> None:
        """From now on add gradients up in these buffers, one for each group."""
        for group, buffer in zip(self._groups, buffers, strict=True):
            group.live_in(group.values.detach(), buffer)

    def add_gradients_of(self, buffers: Sequence[Tensor]) -> None:
        """Add what another process has added up in its buffers."""
        for group, buffer in zip(self._groups, buffers, strict=True):
            group.gradients.add_(buffer)

    def state(self) -> dict[str, Tensor]:
        """Everything a checkpoint must hold: values and both moments of each group, `(elements,)`, and the step count."""
        tensors: dict[str, Tensor] = {}
        for index, group in enumerate(self._groups):
            tensors[f"{index}.values"] = group.values.detach()
            tensors |= {f"{index}.{name}": value for name, value in self._adamw.state[group.values].items()}
        return tensors

    def tensors(self) -> list[Tensor]:
        """All that the optimizer holds: values, gradients and moments."""
        return [*self.state().values(), *(group.gradients for group in self._groups)]

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state` gave, weights included."""
        for index, group in enumerate(self._groups):
            group.values.copy_(tensors[f"{index}.values"])
            names = ("step", "exp_avg", "exp_avg_sq") if f"{index}.step" in tensors else ()  # none before the first step
            device = group.values.device
            self._adamw.state[group.values] = {name: tensors[f"{index}.{name}"].to(device, copy=True) for name in names}
            for parameter, (master, _) in group.low_precision.items():
                parameter.data.copy_(master)
        self.forget()


def _flatten(named: list[tuple[str, nn.Parameter]], stored_as: Mapping[str, torch.dtype], rate: float) -> _Group:
    """Move the parameters into one buffer, one after the other; they stay usable as they were."""
    names, parameters = [n for n, _ in named], [p for _, p in named]
    device, total = parameters[0].device, sum(p.numel() for p in parameters)
    values = torch.empty(total, dtype=torch.float32, device=device)
    group = _Group(names, parameters, nn.Parameter(values), torch.zeros_like(values), rate)
    for name, parameter, view in zip(names, parameters, group.views(values), strict=True):
        view.copy_(parameter.detach())
        stored = stored_as.get(name, parameter.dtype)
        parameter.data = view if stored == torch.float32 else parameter.detach().to(stored)
    group.live_in(values, group.gradients)
    for parameter in group.low_precision:  # not behind the pass: all gradients at once would be as large as the weights
        parameter.register_post_accumulate_grad_hook(group.take_gradient)
    return group


def length(numbers: Tensor) -> Tensor:
    """Euclidean length of `(n,)` numbers, a float64 scalar.

    Short parts are summed in float32, the parts in float64: one float32 sum is 1.4 % short for 135 million numbers.
    """
    whole = len(numbers) // _PART * _PART
    parts = torch.linalg.vector_norm(numbers[:whole].view(-1, _PART), dim=1), torch.linalg.vector_norm(numbers[whole:])[None]
    return torch.linalg.vector_norm(torch.cat(parts), dtype=torch.float64)
