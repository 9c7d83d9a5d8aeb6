"""Kernels equal their twins of torch's operations, those for a GPU and those for a processor.

Those for a GPU go through Triton's interpreter, or are built and run where a GPU is; without Triton they are skipped, and
`pip install 'tunesmith[gpu]'` brings it. Those for a processor are compiled, or skipped where there is no C compiler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny_models
import tiny_runs
import tunesmith.kernels
from tunesmith.data.pack import pack
from tunesmith.kernels import by_device, four_bit
from tunesmith.kernels.cpu import compiled
from tunesmith.methods.lora import LoRA
from tunesmith.model import quantize, trial
from tunesmith.training.gradients import Learner, Pass
from tunesmith.training.optimizer import FlatAdamW

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-6}
"""Of the largest number; in 16 bits two forms round at different places, and the interpreter cuts bits off instead."""
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "bfloat16"])
WITHOUT_KERNEL = {
    "gpu": {"attention.probabilities", "lora_linear.write_changes", "lora_linear.change_gradients"}
    | {"gelu.activated", "gelu.gradient", "rounded.rows", "rounded.add_product", "rounded.add_transposed_product"}
    | {"eight_bit.add_product", "head_gradient.head_gradient"},
    "cpu": set(),
}
"""A GPU has a kernel for the whole of attention; small products, and what torch does in one pass, are left to torch there."""


@dataclass
class Device:
    """Kernels of one kind, where they compute, and numbers to try them on."""

    kind: by_device.Kind
    name: str
    drawn: int = 0

    def draw(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        self.drawn += 1
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.drawn)).to(self.name, dtype)

    def kernel(self, name: str) -> Callable[..., Any]:
        kernel = by_device.kernel_of(self.kind, *name.split("."))
        assert kernel is not None
        return kernel

    def both(self, name: str, *args: object, **kwargs: object) -> list[tuple[Tensor, Tensor]]:
        """What the kernel gives beside what its twin gives, each of inputs of its own: some are overwritten."""
        forms = self.kernel(name), by_device.FUNCTIONS[name]
        copies = ([a.clone() if isinstance(a, Tensor) else a for a in args] for _ in forms)
        found, expected = (form(*own, **kwargs) for form, own in zip(forms, copies, strict=True))
        pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
        return [(one, other) for one, other in pairs if one is not None]


@pytest.fixture(params=["gpu", "cpu"])
def device(request: pytest.FixtureRequest) -> Device:
    kind = request.param
    if kind == "gpu" and not by_device.has_triton():
        pytest.skip("needs Triton")
    if kind == "cpu" and (reason := compiled.why_not()):
        pytest.skip(reason)
    return Device(kind, "cuda" if kind == "gpu" and torch.cuda.is_available() else "cpu")


def _assert_close(one: Tensor, other: Tensor, tolerance: float) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.isfinite().all()
    assert (one.double() - other.double()).abs().max() <= tolerance * other.double().abs().max()


@pytest.mark.parametrize("kind", WITHOUT_KERNEL)
def test_every_kernel_has_its_twin_and_the_other_way_round(kind: by_device.Kind):
    modules = {name.partition(".")[0] for name in by_device.FUNCTIONS}
    found = set()
    for file in Path(tunesmith.kernels.__path__[0], kind).glob("[!_]*.py"):
        for line in file.read_text().splitlines() if file.stem in modules else ():
            if line.startswith("def ") and not line.startswith("def _"):
                found.add(f"{file.stem}.{line[4:].partition('(')[0]}")
    assert found == set(by_device.FUNCTIONS) - WITHOUT_KERNEL[kind]


def test_twins_take_the_same_arguments(device: Device):
    for name in by_device.FUNCTIONS.keys() - WITHOUT_KERNEL[device.kind]:
        twin = by_device.FUNCTIONS[name]
        assert list(inspect.signature(device.kernel(name)).parameters) == list(inspect.signature(twin).parameters), name


@dtypes
@pytest.mark.parametrize("shape", [(5, 48), (2, 3, 17), (1, 3000)], ids=["tile", "odd", "long row"])
def test_rms_norm(device: Device, shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    if device.kind == "gpu":
        monkeypatch.setattr("tunesmith.kernels.gpu.rms_norm._TILE", 64)
        monkeypatch.setattr("tunesmith.kernels.gpu.rms_norm._NUM_STRETCHES", 2)
    x, weight, dy = (device.draw(*size, dtype=dtype) for size in (shape, shape[-1:], shape))
    y, inverse = device.kernel("rms_norm.forward")(x, weight, 1e-5)
    expected, _ = by_device.FUNCTIONS["rms_norm.forward"](x, weight, 1e-5)
    _assert_close(y, expected, TOLERANCE[dtype])
    leaves = [t.double().requires_grad_() for t in (x, weight)]
    wide = leaves[0] * torch.rsqrt(leaves[0].square().mean(-1, keepdim=True) + 1e-5) * leaves[1]
    dx, dweight = torch.autograd.grad(wide, leaves, dy.double())
    gradients = device.kernel("rms_norm.gradients")
    found = gradients(dy, x, weight, inverse, for_weight=True)
    _assert_close(found[0], dx.to(dtype), TOLERANCE[dtype])
    _assert_close(found[1], dweight.to(dtype), TOLERANCE[dtype])
    alone, nothing = gradients(dy, x, weight, inverse, for_weight=False)
    assert nothing is None
    assert torch.equal(alone, found[0])


@dtypes
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("heads", [3, 1])
def test_rotary(device: Device, heads: int, backward: bool, dtype: torch.dtype):
    x = device.draw(2, 5, heads, 12, dtype=dtype).transpose(1, 2)  # as models give it
    cos, sin = device.draw(1, 1, 5, 12, dtype=dtype), device.draw(1, 1, 5, 12, dtype=dtype)
    for one, other in device.both("rotary.turn", x, cos, sin, backward=backward):
        _assert_close(one, other, TOLERANCE[dtype])
    by_head = device.draw(2, heads, 5, 12, dtype=dtype)
    for one, other in device.both("rotary.turn", x, by_head, by_head.flip(-1), backward=backward):
        _assert_close(one, other, TOLERANCE[dtype])
    for one, other in device.both("rotary.turn", x[0, 0], cos[0, 0], sin[0, 0], backward=backward):
        _assert_close(one, other, TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("shape", [(3, 16), (2, 7), (1,)], ids=["sixteens", "odd", "one"])
def test_gelu(device: Device, shape: tuple[int, ...], dtype: torch.dtype):
    if device.kind == "gpu":
        pytest.skip("left to torch")
    x, dy = (device.draw(*shape, dtype=dtype) * 4 for _ in range(2))
    for name, inputs in (("gelu.activated", (x,)), ("gelu.gradient", (dy, x))):
        for one, other in device.both(name, *inputs):
            _assert_close(one, other, TOLERANCE[dtype])
    bad = torch.tensor([torch.nan, torch.inf, 0.0], dtype=dtype)
    assert device.kernel("gelu.activated")(bad).isnan().tolist() == [True, False, False]


@dtypes
@pytest.mark.parametrize("overwrite", [False, True])
def test_gated(device: Device, overwrite: bool, dtype: torch.dtype):
    gate, up, dy = (device.draw(3, 700, dtype=dtype) * 3 for _ in range(3))
    for name in ("product", "reopened"):
        for one, other in device.both(f"gated.{name}", gate, up):
            _assert_close(one, other, TOLERANCE[dtype])
    given = dy.clone()
    found = device.kernel("gated.gradients")(given, gate, up, None, overwrite=overwrite)
    assert torch.equal(given, dy) or overwrite
    for one, other in zip(found, by_device.FUNCTIONS["gated.gradients"](dy, gate, up, None, overwrite=False), strict=True):
        _assert_close(one, other, TOLERANCE[dtype])


@pytest.mark.parametrize("levels", ["nf4", "fp4", "int4"])
def test_four_bit(device: Device, levels: four_bit.Levels):
    weight = four_bit.quantize(device.draw(70, 300), levels)
    part = slice(3, 271)  # begins within a group of scales, ends in the next
    codes = weight.codes[part.start * 32 : part.stop * 32]
    for dtype in (torch.float32, torch.bfloat16):
        for one, other in device.both("four_bit.numbers", codes, weight, part, dtype):
            assert torch.equal(one, other), "bit by bit: what is trained on is what is merged"


@dtypes
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_cross_entropy(
    device: Device, scale: float, softcap: float | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    if device.kind == "gpu":
        monkeypatch.setattr("tunesmith.kernels.gpu.linear_cross_entropy._BLOCK", 32)
    logits, targets = device.draw(6, 75, dtype=dtype) * 4, torch.tensor([0, 74, 31, 32, 5, 64], device=device.name)
    name, given = "linear_cross_entropy.losses_and_slopes", (logits, targets, scale, softcap)
    [(losses, expected)] = device.both(name, *given, for_gradients=False)
    _assert_close(losses, expected, 2e-6)
    (same, _), (slopes, exact) = device.both(name, *given, for_gradients=True)
    assert torch.equal(same, losses), "a kernel sums in float32, whether gradients are asked for or not"
    _assert_close(slopes, exact, TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_is_never_hidden(device: Device, bad: float, dtype: torch.dtype):
    logits, x = device.draw(3, 40, dtype=dtype), device.draw(3, 40, dtype=dtype)
    logits[1, 35] = x[1, 35] = bad
    targets = torch.zeros(3, dtype=torch.long, device=device.name)
    losses, slopes = device.kernel("linear_cross_entropy.losses_and_slopes")(logits, targets, 1.0, None, for_gradients=True)
    y, _ = device.kernel("rms_norm.forward")(x, torch.ones(40, dtype=dtype, device=device.name), 1e-5)
    opened = device.kernel("gated.product")(x, torch.zeros_like(x))
    for found in (losses, slopes, y, opened):
        assert found.isfinite().all(1).tolist() == [True, False, True]


def test_a_target_without_a_logit_is_refused(device: Device):
    if device.kind == "gpu":
        pytest.skip("a GPU is not waited for")
    kernel = device.kernel("linear_cross_entropy.losses_and_slopes")
    for target in (-100, 10):
        with pytest.raises(IndexError, match="for 10 logits"):
            kernel(device.draw(1, 10), torch.tensor([target]), 1.0, None, for_gradients=True)


def test_branches_of_two_types(device: Device):
    """As autocast gives them where one branch has a change of its own."""
    if device.kind == "gpu":
        pytest.skip("each tensor has its type there")
    gate, up, dy = device.draw(3, 50), device.draw(3, 50, dtype=torch.bfloat16), device.draw(3, 50)
    [(found, expected)] = device.both("gated.product", gate, up)
    _assert_close(found, expected, 1e-2)
    dgate, dup = device.kernel("gated.gradients")(dy, gate, up, None, overwrite=False)
    _assert_close(dgate, dy * up * torch.sigmoid(gate) * (1 + gate * (1 - torch.sigmoid(gate))), 1e-2)
    _assert_close(dup, dy * torch.nn.functional.silu(gate), 1e-2)


@dtypes
@pytest.mark.parametrize("masked", [False, True])
def test_probabilities(device: Device, masked: bool, dtype: torch.dtype):
    if "attention.probabilities" in WITHOUT_KERNEL[device.kind]:
        pytest.skip("part of a larger kernel")
    mask = torch.zeros(5, 7, dtype=dtype).masked_fill_(torch.ones(5, 7).triu(3) > 0, -torch.inf) if masked else None
    [(found, expected)] = device.both("attention.probabilities", device.draw(2, 15, 37, dtype=dtype) * 3, mask)
    _assert_close(found, expected, TOLERANCE[dtype])
    assert torch.equal(found == 0, expected == 0), "what is hidden has no share at all"


def test_cross_entropy_writes_gradients_in_the_place_of_logits(device: Device):
    logits = device.draw(4, 10)
    _, slopes = device.kernel("linear_cross_entropy.losses_and_slopes")(
        logits, torch.zeros(4, dtype=torch.long, device=device.name), 1.0, None, for_gradients=True
    )
    assert slopes.data_ptr() == logits.data_ptr()


@pytest.mark.parametrize("bits", [16, 4], ids=["lora", "qlora"])
def test_a_whole_step_by_kernels_is_that_by_torch(device: Device, bits: int, monkeypatch: pytest.MonkeyPatch):
    model = tiny_models.build("qwen3", "causal")  # with norms of heads
    if bits == 4:
        quantize.quantize(model, bits)
    nn.Module.to(model, device.name)
    chosen, reason = trial.choose(model, classification=False)
    assert reason is None
    torch.manual_seed(0)
    LoRA(rank=2).attach(model)
    learner = Learner(chosen, FlatAdamW(model.named_parameters(), 0.0))
    batch, used = pack(tiny_runs.language_table(), np.arange(8)).to(torch.device(device.name)), set()

    def kernel_of(kind: by_device.Kind, module: str, name: str) -> Callable[..., Any] | None:
        used.add(module)
        return original(kind, module, name)

    def step() -> tuple[float, Tensor]:
        loss = learner.accumulate([Pass(batch, 0)]).item()
        gradients = torch.cat([group.gradients for group in learner.optimizer._groups]).clone()
        learner.optimizer.forget()
        return loss, gradients

    original = by_device.kernel_of
    monkeypatch.setattr(by_device, "kernel_of", kernel_of)
    monkeypatch.setattr(by_device, "kind_for", lambda *_, **__: device.kind)
    loss, gradients = step()
    monkeypatch.setattr(by_device, "kind_for", lambda *_, **__: None)
    other_loss, other = step()
    assert loss == pytest.approx(other_loss, rel=1e-5)
    assert (gradients - other).norm() <= 1e-5 * other.norm()
    assert used >= {"rms_norm", "rotary", "gated", "linear_cross_entropy"} | ({"four_bit"} if bits == 4 else set())


def test_what_a_kernel_is_taken_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "why_not", lambda: None)
    x, codes = torch.ones(2), torch.ones(2, dtype=torch.uint8)
    assert by_device.kind_for((x,)) == "cpu"
    assert by_device.kind_for((x.bfloat16(), 1.0)) == "cpu"
    assert by_device.kind_for((codes, 1.0, torch.bfloat16)) == "cpu", "what comes out is in 16 bits"
    assert by_device.kind_for((x.double(),)) is None
    assert by_device.kind_for((codes, 1.0, torch.float64)) is None
    assert by_device.kind_for((x, x.double())) is None
    assert by_device.kind_for((x.to("meta"),)) is None
    with by_device.torch_alone():
        assert by_device.kind_for((x,)) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(compiled, "shares_threads", lambda: True)
    assert by_device.kind_for((x,)) == "cpu"
    monkeypatch.setattr(compiled, "shares_threads", lambda: False)
    assert by_device.kind_for((x,), is_fast_alone=True) == "cpu"
    assert by_device.kind_for((x,)) is None, "torch's operations share the work of a call"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(compiled, "why_not", lambda: "no compiler")
    assert by_device.kind_for((x,)) is None


def test_what_computes_in_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "why_not", lambda: None)
    monkeypatch.setattr(compiled, "fingerprint", lambda: "0123")
    assert by_device.description("cpu") == "tunesmith's in C, 0123"
    with by_device.torch_alone():
        assert by_device.description("cpu") == "torch's operations alone: as asked"
        assert by_device.missing("cpu") is None
    monkeypatch.setattr(compiled, "why_not", lambda: "no compiler")
    assert by_device.description("cpu") == "torch's operations alone: no compiler"
    monkeypatch.setattr(by_device, "has_triton", lambda: False)
    assert by_device.description("cuda") == "torch's operations alone: Triton is not installed (pip install triton)"
