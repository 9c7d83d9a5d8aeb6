"""In which form a model takes batches: found by trying, on a few short rows, whether it then gives its own answers."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from tunesmith.model import alike, anatomy, fast_paths, surgery, virtual_tokens
from tunesmith.model.batch import Batch
from tunesmith.model.forward import Forward, PackedForward, PaddedForward
from tunesmith.model.packed import noting_windows


def choose(model: PreTrainedModel, *, classification: bool, fast: bool = True) -> tuple[Forward, str | None]:
    """The packed form if it gives this model's own answers, else the padded one and the reason.

    The proof is a run of three short rows both ways, through layers that differ alone (`model.alike`); in float32, however
    the weights are stored, because roundings to 16 bits would hide much. With `fast`, our kernels take the place of the
    model's own modules where they agree (`model.fast_paths`), and are part of the proof.
    """
    if anatomy.is_encoder_decoder(model.config):
        return PaddedForward(model), "an encoder-decoder has no single stream"
    if not classification and anatomy.language_head(model) is None:
        return PaddedForward(model), "its output head is not a plain linear layer"
    batch = _probe(model, classification)
    with _evaluating(model), alike.left_out(model), _Wide():
        try:
            single = torch.cat([PaddedForward(model).target_losses(row) for row in _rows(batch)])
        except RuntimeError as error:
            if model.dtype == torch.float32:
                raise
            return PaddedForward(model), f"{type(model).__name__} cannot be tried in float32 ({error})"
        reason, before = None, surgery.num_changes(model)
        for attempt in (True, False) if fast else (False,):
            if attempt:
                fast_paths.install(model)
            packed = PackedForward(model, fast=attempt)
            reason = _difference(packed, batch, single)
            if reason is None:
                return packed, None
            surgery.detach(model, down_to=before)
    return PaddedForward(model), f"{type(model).__name__} {reason}"


def sharing(forward: Forward) -> Forward:
    """The same, with leave to take what all rows begin with once, if the model then still gives its own answers.

    Not with dropout, which would be the same for all rows of a pass.
    """
    model = forward.model
    if not isinstance(forward, PackedForward) or anatomy.is_encoder(model.config):
        return forward
    surgery.train_added(model)
    if any(isinstance(module, nn.Dropout) and module.training and module.p > 0 for module in model.modules()):
        return forward
    probe = _probe(model, classification=False)
    beginning = probe.input_ids[: probe.lengths[0]].flip(0)
    with _evaluating(model), alike.left_out(model):
        whole = forward.target_losses(_beginning_with(beginning, probe))
        with virtual_tokens.made_once(model, beginning):
            reason = _difference(forward, replace(probe, beginning=beginning), whole)
    return replace(forward, shares=reason is None)


def _difference(packed: PackedForward, batch: Batch, single: Tensor) -> str | None:
    """How the packed answers differ from those of single rows, None if they do not."""
    try:
        with noting_windows() as windows:
            losses = packed.target_losses(batch)
    except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        return f"cannot take a packed stream ({error})"
    if windows == {None} and anatomy.has_window(packed.model.config):
        return "hides what is outside of a window by a mask, which a stream does not have"
    tolerance = 1e-3 if packed.model.dtype == torch.float32 else 0.1
    difference = (losses - single).abs().max().item()
    if difference <= tolerance * max(1.0, single.abs().max().item()):
        return None
    return f"answers differently when packed (loss differs by {difference:.2g})"


class _Wide(TorchFunctionMode):
    """Compute as if parameters were stored in float32: each is widened for the operation that takes it, and no longer."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        changes_a_parameter = name.endswith("_") and not name.endswith("__") and bool(args) and _is_narrow(args[0])
        if name in _ABOUT_TENSORS or changes_a_parameter:
            return func(*args, **kwargs)
        if name == "__get__":
            return _widened(func(*args, **kwargs)) if _is_narrow(args[0]) else func(*args, **kwargs)
        if name == "data_ptr" and _is_narrow(args[0]):
            raise RuntimeError("the address of a weight is asked for, which holds 16-bit numbers")
        if name == "embedding":
            return _widened(func(*args, **kwargs))  # the same numbers without widening the whole table
        if not _holds_narrow((args, kwargs)):
            return func(*args, **kwargs)
        wide: tuple[tuple[Any, ...], dict[str, Any]]
        wide = tree_map(lambda given: _widened(given) if _is_narrow(given) else given, (args, kwargs))
        return func(*wide[0], **wide[1])


_ABOUT_TENSORS = frozenset({"__set__", "__len__", "__hash__", "size", "numel", "dim", "stride"})
_ABOUT_TENSORS |= {"is_contiguous", "is_floating_point"}
_NARROW = (torch.bfloat16, torch.float16)


def _is_narrow(argument: object) -> bool:
    return isinstance(argument, nn.Parameter) and argument.dtype in _NARROW


def _holds_narrow(given: object) -> bool:
    if isinstance(given, dict):
        return any(map(_holds_narrow, given.values()))
    return any(map(_holds_narrow, given)) if isinstance(given, tuple | list) else _is_narrow(given)


def _widened(found: object) -> object:
    """A tensor, or its number format, as it would be in float32; anything else as it is."""
    if isinstance(found, Tensor):
        return found.detach().float() if found.dtype in _NARROW else found
    return torch.float32 if found in _NARROW else found


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _probe(model: PreTrainedModel, classification: bool) -> Batch:
    """Three rows of different lengths; every next token (or a class per row) is predicted."""
    device, lengths = anatomy.device_of(model), [9, 4, 6]
    generator = torch.Generator().manual_seed(0)
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, Tensor)
    vocabulary = embeddings.shape[0]
    ids = torch.randint(min(10, vocabulary - 1), vocabulary, (sum(lengths),), generator=generator).to(device)
    if classification:
        return Batch(input_ids=ids, lengths=lengths, targets=torch.zeros(3, dtype=torch.long, device=device))
    ends = torch.cumsum(torch.tensor(lengths), 0) - 1
    positions = torch.tensor([i for i in range(len(ids)) if i not in ends.tolist()], device=device)
    return Batch(input_ids=ids, lengths=lengths, positions=positions, targets=ids[positions + 1])


def _beginning_with(words: Tensor, batch: Batch) -> Batch:
    """The rows of a batch with the words before each."""
    assert batch.positions is not None
    ids = torch.cat([piece for row in batch.input_ids.split(batch.lengths) for piece in (words, row)])
    positions = batch.positions + len(words) * (1 + batch.row_of_target())
    return replace(batch, input_ids=ids, lengths=[len(words) + length for length in batch.lengths], positions=positions)


def _rows(batch: Batch) -> list[Batch]:
    """The batch's rows, one batch each."""
    rows, start, owner = [], 0, batch.row_of_target()
    for index, length in enumerate(batch.lengths):
        chosen = owner == index
        rows.append(
            Batch(
                input_ids=batch.input_ids[start : start + length],
                lengths=[length],
                targets=batch.targets[chosen],
                positions=None if batch.positions is None else batch.positions[chosen] - start,
            )
        )
        start += length
    return rows
