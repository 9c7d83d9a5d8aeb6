"""Kernels for a GPU equal their twins of torch's operations: through Triton's interpreter here, built and run where a GPU is.

Without Triton they are skipped; `pip install 'tunesmith[gpu]'` brings it.
"""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny_models
import tiny_runs
import tunesmith.kernels
from tunesmith.data.pack import pack
from tunesmith.kernels import by_device, four_bit, gated, linear_cross_entropy, rms_norm, rotary
from tunesmith.methods.lora import LoRA
from tunesmith.model import forward, quantize
from tunesmith.training.optimizer import FlatAdamW
from tunesmith.training.step import Learner, Pass

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-6}
"""Of the largest number; in 16 bits two forms round at different places, and the interpreter cuts bits off instead."""
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "bfloat16"])


def _draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    _draw.seed += 1
    return torch.randn(shape, generator=torch.Generator().manual_seed(_draw.seed)).to(DEVICE, dtype)


_draw.seed = 0


def _both(module, name: str, *args, **kwargs) -> list[tuple[Tensor, Tensor]]:
    """What the kernel gives beside what its twin gives, each of inputs of its own: some are overwritten."""
    short = module.__name__.rpartition(".")[2]
    forms = getattr(by_device.kernels(short), name), by_device.FUNCTIONS[f"{short}.{name}"]
    copies = ([a.clone() if isinstance(a, Tensor) else a for a in args] for _ in forms)
    found, expected = (form(*own, **kwargs) for form, own in zip(forms, copies, strict=True))
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    return [(one, other) for one, other in pairs if one is not None]


def _assert_close(one: Tensor, other: Tensor, tolerance: float) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.isfinite().all()
    assert (one.double() - other.double()).abs().max() <= tolerance * other.double().abs().max()


def test_every_kernel_has_its_twin_and_the_other_way_round():
    folder = Path(tunesmith.kernels.__path__[0], "gpu")
    found = set()
    for file in folder.glob("[!_]*.py"):
        for line in file.read_text().splitlines():
            if line.startswith("def ") and not line.startswith("def _"):
                found.add(f"{file.stem}.{line[4:].partition('(')[0]}")
    assert found == set(by_device.FUNCTIONS)


@needs_triton
def test_twins_take_the_same_arguments():
    for name, function in by_device.FUNCTIONS.items():
        module, _, short = name.partition(".")
        kernel = getattr(by_device.kernels(module), short)
        assert list(inspect.signature(kernel).parameters) == list(inspect.signature(function).parameters), name


@needs_triton
@dtypes
@pytest.mark.parametrize("shape", [(5, 48), (2, 3, 17), (1, 3000)], ids=["tile", "odd", "long row"])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    kernel = by_device.kernels("rms_norm")
    monkeypatch.setattr(kernel, "_TILE", 64)
    monkeypatch.setattr(kernel, "_NUM_STRETCHES", 2)
    x, weight, dy = _draw(*shape, dtype=dtype), _draw(shape[-1], dtype=dtype), _draw(*shape, dtype=dtype)
    y, inverse = kernel.forward(x, weight, 1e-5)
    expected, _ = by_device.FUNCTIONS["rms_norm.forward"](x, weight, 1e-5)
    _assert_close(y, expected, TOLERANCE[dtype])
    leaves = [t.double().requires_grad_() for t in (x, weight)]
    wide = leaves[0] * torch.rsqrt(leaves[0].square().mean(-1, keepdim=True) + 1e-5) * leaves[1]
    dx, dweight = torch.autograd.grad(wide, leaves, dy.double())
    found = kernel.gradients(dy, x, weight, inverse, for_weight=True)
    _assert_close(found[0], dx.to(dtype), TOLERANCE[dtype])
    _assert_close(found[1], dweight.to(dtype), TOLERANCE[dtype])
    alone, nothing = kernel.gradients(dy, x, weight, inverse, for_weight=False)
    assert nothing is None
    assert torch.equal(alone, found[0])


@needs_triton
@dtypes
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("heads", [3, 1])
def test_rotary(heads: int, backward: bool, dtype: torch.dtype):
    x = _draw(2, 5, heads, 12, dtype=dtype).transpose(1, 2)  # as models give it
    cos, sin = _draw(1, 1, 5, 12, dtype=dtype), _draw(1, 1, 5, 12, dtype=dtype)
    for one, other in _both(rotary, "turn", x, cos, sin, backward=backward):
        _assert_close(one, other, TOLERANCE[dtype])
    by_head = _draw(2, heads, 5, 12, dtype=dtype)
    for one, other in _both(rotary, "turn", x, by_head, by_head.flip(-1), backward=backward):
        _assert_close(one, other, TOLERANCE[dtype])
    for one, other in _both(rotary, "turn", x[0, 0], cos[0, 0], sin[0, 0], backward=backward):
        _assert_close(one, other, TOLERANCE[dtype])


@needs_triton
@dtypes
@pytest.mark.parametrize("overwrite", [False, True])
def test_gated(overwrite: bool, dtype: torch.dtype):
    gate, up, dy = (_draw(3, 700, dtype=dtype) * 3 for _ in range(3))
    for name in ("product", "reopened"):
        for one, other in _both(gated, name, gate, up):
            _assert_close(one, other, TOLERANCE[dtype])
    given = dy.clone()
    found = by_device.kernels("gated").gradients(given, gate, up, None, overwrite=overwrite)
    assert torch.equal(given, dy) or overwrite
    for one, other in zip(found, gated.gradients(dy, gate, up, None, overwrite=False), strict=True):
        _assert_close(one, other, TOLERANCE[dtype])


@needs_triton
@pytest.mark.parametrize("levels", ["nf4", "fp4", "int4"])
def test_four_bit(levels: four_bit.Levels):
    weight = four_bit.quantize(_draw(70, 300), levels)
    part = slice(3, 271)  # begins within a group of scales, ends in the next
    codes = weight.codes[part.start * 32 : part.stop * 32]
    for dtype in (torch.float32, torch.float16):
        for one, other in _both(four_bit, "numbers", codes, weight, part, dtype):
            assert torch.equal(one, other), "bit by bit: what is trained on is what is merged"


@needs_triton
@dtypes
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_cross_entropy(scale: float, softcap: float | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(by_device.kernels("linear_cross_entropy"), "_BLOCK", 32)
    logits, targets = _draw(6, 75, dtype=dtype) * 4, torch.tensor([0, 74, 31, 32, 5, 64], device=DEVICE)
    (losses, expected), (slopes, exact) = _both(
        linear_cross_entropy, "losses_and_slopes", logits, targets, scale, softcap, for_gradients=True
    )
    _assert_close(losses, expected, 2e-6)
    _assert_close(slopes, exact, TOLERANCE[dtype])
    [(alone, _)] = _both(linear_cross_entropy, "losses_and_slopes", logits, targets, scale, softcap, for_gradients=False)
    assert torch.equal(alone, losses)


@needs_triton
def test_cross_entropy_writes_gradients_in_the_place_of_logits():
    logits = _draw(4, 10)
    _, slopes = by_device.kernels("linear_cross_entropy").losses_and_slopes(
        logits, torch.zeros(4, dtype=torch.long, device=DEVICE), 1.0, None, for_gradients=True
    )
    assert slopes.data_ptr() == logits.data_ptr()


@needs_triton
@pytest.mark.parametrize("bits", [16, 4], ids=["lora", "qlora"])
def test_a_whole_step_by_kernels_is_that_by_torch(bits: int, monkeypatch: pytest.MonkeyPatch):
    model = tiny_models.build("qwen3", "causal")  # with norms of heads
    if bits == 4:
        quantize.quantize(model, bits)
    nn.Module.to(model, DEVICE)
    chosen, reason = forward.choose(model, classification=False)
    assert reason is None
    torch.manual_seed(0)
    LoRA(rank=2).attach(model)
    learner = Learner(chosen, FlatAdamW(model.named_parameters(), 0.0))
    batch, used, found = pack(tiny_runs.language_table(), np.arange(8)).to(torch.device(DEVICE)), [], []
    kernels = by_device.kernels
    monkeypatch.setattr(by_device, "kernels", lambda module: used.append(module) or kernels(module))
    for by_kernels in (True, False):
        monkeypatch.setattr(by_device, "takes_kernel", lambda first, answer=by_kernels: answer)
        loss = learner.accumulate([Pass(batch, 0)]).item()
        found.append((loss, torch.cat([group.gradients for group in learner.optimizer._groups]).clone()))
        learner.optimizer.forget()
    (loss, gradients), (other_loss, other) = found
    assert loss == pytest.approx(other_loss, rel=1e-5)
    assert (gradients - other).norm() <= 1e-5 * other.norm()
    assert set(used) == {"rms_norm", "rotary", "gated", "linear_cross_entropy"} | ({"four_bit"} if bits == 4 else set())


def test_nothing_is_taken_from_a_processor(monkeypatch: pytest.MonkeyPatch):
    def refuse(module: str) -> None:
        raise AssertionError(module)

    monkeypatch.setattr(by_device, "kernels", refuse)
    x = torch.randn(2, 4)
    rms_norm.forward(x, torch.ones(4), 0.0)
