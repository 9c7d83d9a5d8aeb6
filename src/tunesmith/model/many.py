"""Several adapters over one frozen model, each with its own rows of one packed stream.

Each adapter stays on a model of its own, made of its own modules over the same frozen tensors, so that it is evaluated and
saved like any other. One more such model has the changes of all: there, what is frozen is computed for the whole stream at
once, and a change for its own rows only.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from tunesmith.errors import SettingsError
from tunesmith.model import anatomy, low_rank, surgery
from tunesmith.model.batch import Batch, join
from tunesmith.model.forward import Forward, PackedForward
from tunesmith.model.low_rank import ManyLoRALinear


def twin(forward: PackedForward) -> PackedForward:
    """The same on a model of its own modules over the same tensors; only a new head, which learns, is copied."""
    model = forward.model
    own = set(anatomy.new_head_parameters(model))
    shared = [*(parameter for name, parameter in model.named_parameters() if name not in own), *model.buffers()]
    return dataclasses.replace(forward, model=copy.deepcopy(model, {id(tensor): tensor for tensor in shared}))


@dataclass(frozen=True)
class Together:
    """Computes with all adapters at once. Losses may be differentiated inside `scope` only."""

    whole: PackedForward
    """Of the model that has all changes."""
    adapters: Sequence[PackedForward]

    @contextlib.contextmanager
    def scope(self, batches: Mapping[int, Batch]) -> Iterator[None]:
        """What a forward and its backward pass over the batches of some adapters, by their numbers, run inside."""
        num_tokens = {number: len(batch.input_ids) for number, batch in batches.items()}
        with self.whole.stream(join(list(batches.values()))), low_rank.taking_turns(num_tokens):
            yield

    def losses(self, batches: Mapping[int, Batch]) -> dict[int, Tensor]:
        """Summed loss over the targets of each adapter's batch, float32 scalars."""
        hidden = self.whole.hidden(join(list(batches.values())))
        shares = hidden.split([len(batch.input_ids) for batch in batches.values()])
        return {n: self.adapters[n].loss_of(own, batch) for own, (n, batch) in zip(shares, batches.items(), strict=True)}


def together(whole: PackedForward, adapters: Sequence[PackedForward]) -> Together:
    """Let the model of `whole`, to which nothing is attached, compute for all adapters, whose models are its twins."""
    model, changes = whole.model, [low_rank.layers(adapter.model) for adapter in adapters]
    surgery.freeze(model)
    for path in [path for path, _ in model.named_modules() if any(path in own for own in changes)]:
        surgery.replace(model, path, ManyLoRALinear(model.get_submodule(path), [own.get(path) for own in changes]))
    low_rank.unite(model)
    for forward in (whole, *adapters):
        forward.model.eval()  # they have no dropout that should be on
    return Together(whole, adapters)


def require_packed(forward: Forward) -> PackedForward:
    """The same, if it takes its rows in one stream, which several adapters can have parts of.

    Raises:
        SettingsError: If it does not.
    """
    if isinstance(forward, PackedForward):
        return forward
    raise SettingsError(
        f"Adapters are trained together on one stream of rows, but {type(forward.model).__name__} takes its rows padded. "
        "Train one after the other, with fit."
    )


def require_low_rank(model: nn.Module, name: str) -> None:
    """Check that what is attached to a model is a low-rank change that can be trained together with others.

    Raises:
        SettingsError: If it learns anything else but a new head, or drops inputs at random; `name` says whose it is.
    """
    changes = low_rank.layers(model)
    known = {f"{path}.{factor}" for path in changes for factor in ("a", "b")} | set(anatomy.new_head_parameters(model))
    other = [name for name, parameter in model.named_parameters() if parameter.requires_grad and name not in known]
    if other or not changes:
        found = f"learns {other[0]!r}" if other else "has none"
        raise SettingsError(f"Only low-rank changes of linear layers (LoRA) can be trained together; {name} {found}. Use fit.")
    if any(layer.dropout.p for layer in changes.values()):
        raise SettingsError(
            f"{name} has dropout, whose noise would not be that of a run of its own if it were trained together with others. "
            "Set dropout=0, or use fit."
        )
