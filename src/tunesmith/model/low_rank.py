"""A frozen linear layer plus a low-rank change, for all methods that learn one."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from tunesmith.errors import NotMergeable
from tunesmith.kernels.lora_linear import ALL_TOKENS, Change, Changed, lora_linear
from tunesmith.model import anatomy, roles, surgery, token_rows, weights


class ChangedLinear(nn.Module):
    """A frozen linear layer, `base`, and a change of its weight."""

    base: nn.Module

    @property
    def weight(self) -> Tensor:
        """The frozen weight, as stored; some models look at its data type."""
        return anatomy.stored_weight(self.base)

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias, `(d_out,)`."""
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    def merged_weight(self) -> Tensor:
        """The weight that does the same alone, `(d_out, d_in)` float64."""
        raise NotImplementedError


class LoRALinear(ChangedLinear):
    """y = W x + s B A x      A: (rank, d_in) Kaiming-uniform, B: (d_out, rank) zero at the start."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        d_in, d_out = anatomy.linear_sizes(base)
        device = anatomy.device_of(base)
        self.base, self.scale, self.dropout = base, scale, nn.Dropout(dropout)
        self.a = nn.Parameter(torch.empty(rank, d_in, device=device, dtype=torch.float32))
        self.b = nn.Parameter(torch.zeros(d_out, rank, device=device, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as in the paper's code
        self.company = Company([self])

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        if self.by_autograd:
            return self.base(x) + self.scale * (self.dropout(x) @ self.a.t().to(x.dtype) @ self.b.t().to(x.dtype))
        return self.company.output(self, x)

    @property
    def by_autograd(self) -> bool:
        """Whether torch must find the gradients: inputs of the change are zeroed at random, or the base layer learns too."""
        own = self.base._parameters.values()  # not by `parameters()`, which takes twice as long: every call asks
        return (self.training and self.dropout.p > 0) or any(p is not None and p.requires_grad for p in own)

    @property
    def change(self) -> Change:
        """What is added to the weight."""
        return Change(self.a, self.b, self.scale)

    @property
    def changed(self) -> Changed:
        """The layer as kernels take it."""
        return Changed(weights.frozen(self.base), self.bias, [self.change])

    @property
    def parts(self) -> Sequence[slice]:
        """The one part of the tokens, which is all of them."""
        return ALL_TOKENS

    def merged_weight(self) -> Tensor:
        return anatomy.linear_weight(self.base).double() + (self.scale * self.b @ self.a).double()


class ManyLoRALinear(ChangedLinear):
    """y = W x + s B A x, where A, B and s are those of the adapter whose tokens x are.

    Which tokens are whose is known inside `taking_turns`. The factors are those of the adapters' own layers.
    """

    def __init__(self, base: nn.Module, adapters: Sequence[LoRALinear | None]) -> None:
        """Compute with the layers of the adapters; None is an adapter that leaves this layer as it is."""
        super().__init__()
        self.base = base
        d_in, d_out = anatomy.linear_sizes(base)
        device = anatomy.device_of(base)
        nothing = Change(torch.empty(0, d_in, device=device), torch.empty(d_out, 0, device=device), 1.0)
        self._changes = [nothing if adapter is None else adapter.change for adapter in adapters]
        self.company = Company([self])

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., d_in)` to `(..., d_out)`."""
        return self.company.output(self, x)

    @property
    def by_autograd(self) -> bool:
        """Never: the base is frozen for all adapters, and none drops inputs."""
        return False

    @property
    def changed(self) -> Changed:
        """The layer as kernels take it."""
        return Changed(weights.frozen(self.base), self.bias, [self._changes[number] for number in _turns[-1]])

    @property
    def parts(self) -> Sequence[slice]:
        """The tokens of each adapter whose turn it is."""
        return list(_turns[-1].values())


_turns: list[dict[int, slice]] = []


@contextlib.contextmanager
def taking_turns(num_tokens: Mapping[int, int]) -> Iterator[None]:
    """Let adapters, by their numbers, have so many tokens of the stream each, one after the other."""
    turns, start = {}, 0
    for number, length in num_tokens.items():
        turns[number] = slice(start, start + length)
        start += length
    _turns.append(turns)
    try:
        yield
    finally:
        _turns.pop()


class Company:
    """Layers beside each other that read the same input, such as the projections to queries, keys and values.

    The model calls one after the other. The first call computes for all of them, the others take their result.
    """

    def __init__(self, layers: Sequence[LoRALinear | ManyLoRALinear]) -> None:
        self.layers = layers
        self._found: tuple[Tensor, dict[int, Tensor]] | None = None
        """An input, and what is still to be fetched of its outputs."""

    def output(self, layer: LoRALinear | ManyLoRALinear, x: Tensor) -> Tensor:
        """What `layer`, which is one of them, makes of x."""
        found = self._found  # read once: another thread may put in what it finds for an input of its own
        if found is None or found[0] is not x or id(layer) not in found[1]:
            members = [member for member in self.layers if not member.by_autograd]
            outputs = lora_linear(x, [member.changed for member in members], layer.parts)
            found = self._found = x, {id(member): y for member, y in zip(members, outputs, strict=True)}
        y = found[1].pop(id(layer))
        if not found[1]:
            self._found = None
        return y

    def __deepcopy__(self, memo: dict[int, object]) -> Company:
        memo[id(self)] = twin = Company([])
        twin.layers = copy.deepcopy(self.layers, memo)
        return twin


def unite(model: nn.Module) -> None:
    """Let the changed layers that read the same input compute together."""
    changed = {path: module for path, module in model.named_modules() if isinstance(module, LoRALinear | ManyLoRALinear)}
    for paths in roles.readers_of_one_input(model, changed):
        company = Company([changed[path] for path in paths])
        for layer in company.layers:
            layer.company = company


def all_plain(modules: Sequence[nn.Module]) -> TypeGuard[Sequence[LoRALinear | ManyLoRALinear]]:
    """Whether all are low-rank layers and nothing more, so that one kernel may compute them together."""
    return all(type(m) in (LoRALinear, ManyLoRALinear) and not m.by_autograd for m in modules)


def changed(model: nn.Module) -> dict[str, ChangedLinear]:
    """The layers with any change, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, ChangedLinear)}


def layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers with LoRA's change, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)}


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Give every layer its merged weight and take the changes away.

    Raises:
        NotMergeable: If a weight is also used at another place.
    """
    found = changed(model)
    for path in (path for path, layer in found.items() if anatomy.is_tied(model, layer.base)):
        raise NotMergeable(f"{path!r} shares its weight with the embeddings, which would change too. Keep the adapter.")
    for layer in found.values():
        weight = weights.writable(layer.base)
        weight.copy_(layer.merged_weight().to(weight.dtype))
    token_rows.fold(model)
    surgery.detach(model)
