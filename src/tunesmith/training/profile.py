"""What a step costs: the seconds of each part, its floating-point operations, and the memory kept for its backward pass."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel

from tunesmith.kernels import by_device
from tunesmith.model import anatomy
from tunesmith.model.batch import Batch
from tunesmith.training.gradients import Learner, Pass
from tunesmith.training.laps import UNMEASURED, Laps, Part

PARTS: tuple[Part, ...] = get_args(Part)
WARM_UP = 2  # steps whose time is not typical yet
NUM_STEPS = 10  # timed after these
_PROBE_SECONDS = 0.07  # for each shape of a product
_NUM_PROBES = 3

_aten = torch.ops.aten
_SAME_COST = {  # variants that torch's list of formulas does not have -> the one whose formula is theirs
    _aten.addmm_: _aten.addmm,
    _aten.baddbmm_: _aten.baddbmm,
    _aten._scaled_dot_product_flash_attention_for_cpu: _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _aten._scaled_dot_product_flash_attention_backward,
}
_MATRICES = {_aten.mm: (0, 1), _aten.addmm: (1, 2)}  # product of two matrices -> which arguments these are


class StepTimer:
    """Times the parts of the first steps of a run; the others are not touched."""

    def __init__(self) -> None:
        self._steps: dict[int, dict[Part, float]] = {}

    @contextlib.contextmanager
    def measuring(self, step: int, model: nn.Module) -> Iterator[Laps]:
        """The laps of a step."""
        if len(self._steps) >= WARM_UP + NUM_STEPS:
            yield UNMEASURED
            return
        stopwatch = _Stopwatch(anatomy.device_of(model))
        with _after_body(model, stopwatch):
            yield stopwatch
        stopwatch.end("rest")
        self._steps[step] = stopwatch.seconds

    @property
    def steps(self) -> dict[int, dict[Part, float]]:
        """Seconds of each part, by step: those after the warm-up, or all where there are none."""
        return dict(list(self._steps.items())[WARM_UP:]) or self._steps


class _Stopwatch:
    """Adds up the seconds of each part."""

    def __init__(self, device: torch.device) -> None:
        self._wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._last = self._now()

    def end(self, part: Part) -> None:
        """The seconds since the last call belong to `part`."""
        now = self._now()
        self.seconds[part] += now - self._last
        self._last = now

    def _now(self) -> float:
        self._wait()
        return time.perf_counter()


@contextlib.contextmanager
def _after_body(model: nn.Module, laps: Laps) -> Iterator[None]:
    """End the lap "forward" whenever the body has given its hidden states, so that what follows is the head's."""
    assert isinstance(model, PreTrainedModel)
    body, output = anatomy.backbone(model), model.get_output_embeddings()
    if body is not model:
        handle = body.register_forward_hook(lambda *_: laps.end("forward"))
    elif output is not None:
        handle = output.register_forward_pre_hook(lambda *_: laps.end("forward"))
    else:
        yield
        return
    try:
        yield
    finally:
        handle.remove()


class StepCounter:
    """Counts the work of a step's passes, part by part."""

    def __init__(self) -> None:
        self._operations = _Operations()
        self._last = 0
        self.flop = dict.fromkeys(PARTS, 0)
        """Floating-point operations of the matrix products."""
        self.kept_bytes = 0
        """Of all that the forward pass made and the backward pass still needs, in the pass that keeps most."""

    def end(self, part: Part) -> None:
        """The operations since the last call belong to `part`."""
        self.flop[part] += self._operations.flop - self._last
        self._last = self._operations.flop
        if part == "head":
            self.kept_bytes = max(self.kept_bytes, self._operations.held_bytes())
        if part == "optimizer":
            self._operations.forget_tensors()

    def count(self, learner: Learner, batches: Sequence[Batch]) -> None:
        """Run the passes of a step; the weights do not move and the gradients are thrown away."""
        passes = [Pass(batch, 0) for batch in batches]
        with self._operations, _after_body(learner.forward.model, self):
            learner.accumulate(passes, self)  # as it is done: what is kept
            learner.optimizer.forget()
            self.flop, kept_bytes = dict.fromkeys(PARTS, 0), self.kept_bytes
            self._operations.products.clear()
            with by_device.torch_alone():  # the same by operations that are seen
                learner.accumulate(passes, self)
        self.kept_bytes = kept_bytes
        learner.optimizer.forget()

    def limit(self, dtype: torch.dtype, device: torch.device) -> float:
        """Operations a second that this machine reaches in the counted products that cost most, at the fastest."""
        shapes = [shape for shape, _ in self._operations.products.most_common(_NUM_PROBES)]
        return max((_flop_per_second(shape, dtype, device) for shape in shapes), default=0.0)


class _Operations(TorchDispatchMode):
    """Sees every operation that tensors go through, inside of custom gradients too, where torch's own counter misses some."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0
        self.products: Counter[tuple[int, int, int]] = Counter()
        """Operations of all products of two matrices `(rows, inner) (inner, columns)` of one shape."""
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, given)) if isinstance(leaf, Tensor)}
        result = func(*args, **given)
        self._count(_SAME_COST.get(func.overloadpacket, func.overloadpacket), args, given, result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in before:
                reference = StorageWeakRef(storage)
                self._made[reference.cdata] = reference, storage.nbytes()
        return result

    def _count(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if packet not in flop_registry:
            return
        flop = int(flop_registry[packet](*args, **kwargs, out_val=result))
        self.flop += flop
        if packet in _MATRICES:
            left, right = (args[place] for place in _MATRICES[packet])
            self.products[*left.shape, right.shape[1]] += flop

    def held_bytes(self) -> int:
        """Bytes of everything made since the last `forget_tensors` that somebody still holds; shared storage counts once."""
        return sum(num_bytes for reference, num_bytes in self._made.values() if not reference.expired())

    def forget_tensors(self) -> None:
        """Begin anew."""
        self._made.clear()


@torch.no_grad()
def _flop_per_second(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> float:
    """The rate of one product `(rows, inner) (inner, columns)`, measured over `_PROBE_SECONDS`."""
    rows, inner, columns = shape
    left, right = (torch.full(size, 0.5, dtype=dtype, device=device) for size in ((rows, inner), (columns, inner)))
    out = torch.empty(rows, columns, dtype=dtype, device=device)
    stopwatch = _Stopwatch(device)
    torch.mm(left, right.t(), out=out)
    stopwatch.end("rest")  # which warms up
    count = 0
    while stopwatch.seconds["forward"] < _PROBE_SECONDS:
        torch.mm(left, right.t(), out=out)
        count += 1
        stopwatch.end("forward")
    return 2 * rows * inner * columns * count / stopwatch.seconds["forward"]
