"""Compiled code computes bitwise the same however many threads share its loops: no number is made by two of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import tunesmith.kernels
from tunesmith.kernels import by_device, eight_bit, four_bit
from tunesmith.kernels.cpu import compiled, part_attention
from tunesmith.kernels.cpu.part_attention import Code, Stream
from tunesmith.kernels.lora_linear import Change, Kept
from tunesmith.kernels.rounded import Rounded
from tunesmith.kernels.segments import Segments
from tunesmith.training import threads

pytestmark = pytest.mark.skipif(not compiled.shares_threads(), reason="needs compiled code whose loops torch's threads share")
ROWS, WIDTH, WORDS = 333, 192, 5000  # enough for threads to be woken, and no multiple of what one of them takes


class Numbers:
    """Random ones, the same again and again."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.drawn = dtype, 0

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        self.drawn += 1
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.drawn)).to(dtype or self.dtype)


def kernel(name: str) -> Callable[..., object]:
    found = by_device.kernel_of("cpu", *name.split("."))
    assert found is not None
    return found


def tensors(found: object) -> Iterator[Tensor]:
    """Those in what a kernel gives."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, tuple | list):
        for one in found:
            yield from tensors(one)


def rotary(draw: Numbers) -> list[object]:
    x, cos, sin = draw(2, 3, ROWS, 64), draw(1, 1, ROWS, 64), draw(1, 1, ROWS, 64)
    return [kernel("rotary.turn")(x, cos, sin, backward=backward) for backward in (False, True)]


def losses(draw: Numbers) -> object:
    targets = torch.arange(ROWS)
    return kernel("linear_cross_entropy.losses_and_slopes")(draw(ROWS, WORDS), targets, 0.5, 30.0, for_gradients=True)


def head_gradient(draw: Numbers) -> Tensor:
    slopes, dhidden = torch.softmax(4 * draw(ROWS, WORDS, dtype=torch.float32), -1), draw(ROWS, WIDTH)
    slopes = slopes.scatter_add(1, torch.arange(ROWS)[:, None], -torch.ones(ROWS, 1)).to(draw.dtype)
    kernel("head_gradient.head_gradient")(slopes, draw(WORDS, WIDTH), 1.0, dhidden)
    return dhidden


def norm_gradients(draw: Numbers) -> object:
    inverse = draw(ROWS, 1, dtype=torch.float32)
    return kernel("rms_norm.gradients")(draw(ROWS, WIDTH), draw(ROWS, WIDTH), draw(WIDTH), inverse, for_weight=True)


def low_rank(draw: Numbers) -> list[object]:
    changes = [Change(draw(16, WIDTH, dtype=torch.float32), draw(n, 16, dtype=torch.float32), 0.5) for n in (WIDTH, 64)]
    x, outputs = draw(ROWS, WIDTH), [draw(ROWS, WIDTH), draw(ROWS, 64)]
    kept = kernel("lora_linear.write_changes")(x, outputs, changes, [draw(WIDTH), None])
    assert isinstance(kept, Kept)
    dx = draw(ROWS, WIDTH)
    return [
        outputs,
        kept,
        kernel("lora_linear.change_gradients")(x, [draw(ROWS, WIDTH), draw(ROWS, 64)], kept, changes, dx),
        dx,
    ]


def rounded_products(draw: Numbers) -> list[object]:
    weight, y, dx = eight_bit.quantize(draw(320, WIDTH, dtype=torch.float32)), draw(ROWS, 320), draw(ROWS, WIDTH)
    x, dy = (kernel("rounded.rows")(t, factors) for t, factors in ((draw(ROWS, WIDTH), None), (draw(ROWS, 320), weight.scales)))
    assert isinstance(x, Rounded)
    kernel("rounded.add_product")(y, x, weight.codes, weight.scales)
    kernel("rounded.add_transposed_product")(dx, dy, weight.codes)
    return [x, dy, y, dx]


def few_rows(draw: Numbers) -> Tensor:
    weight, y = eight_bit.quantize(draw(320, WIDTH, dtype=torch.float32)), draw(7, 320)
    kernel("eight_bit.add_product")(y, draw(7, WIDTH), weight.codes, weight.scales)
    return y


def four_bits(draw: Numbers) -> object:
    weight = four_bit.quantize(draw(320, WIDTH, dtype=torch.float32))
    return kernel("four_bit.numbers")(weight.codes, weight, slice(0, 320 * WIDTH // 64), draw.dtype)


def attention(code: Code, num_ahead: int) -> Callable[[Numbers], list[Tensor]]:
    def attend(draw: Numbers) -> list[Tensor]:
        lengths, heads, kv_heads = [40, 9, 33, 50, 17, 5, 21, 12, 30, 8, 44], 6, 3  # two parts and one in a group
        segments = Segments(lengths, num_given=num_ahead)
        inputs = draw(sum(lengths), heads, 64), *(draw(num_ahead + sum(lengths), kv_heads, 64) for _ in range(2))
        outputs = [torch.zeros_like(t) for t in (inputs[0], *inputs)]
        sums = tuple(torch.zeros(num_ahead, kv_heads, 64) for _ in range(2))
        stream = Stream(*inputs, segments.table(code.most_tokens).parts, True, 0.2)
        code.attend(stream, outputs[0])
        code.write_gradients(stream, draw(*inputs[0].shape), tuple(outputs[1:]), sums)
        return [*outputs, *sums]

    return attend


KERNELS: dict[str, Callable[[Numbers], object]] = {
    "rms_norm.forward": lambda draw: kernel("rms_norm.forward")(draw(ROWS, WIDTH), draw(WIDTH), 1e-5),
    "rms_norm.gradients": norm_gradients,
    "gated.product": lambda draw: kernel("gated.product")(draw(ROWS, WIDTH), draw(ROWS, WIDTH)),
    "gated.reopened": lambda draw: kernel("gated.reopened")(draw(ROWS, WIDTH), draw(ROWS, WIDTH)),
    "gated.gradients": lambda draw: kernel("gated.gradients")(*(draw(ROWS, WIDTH) for _ in range(3)), None, overwrite=True),
    "gelu.activated": lambda draw: kernel("gelu.activated")(draw(ROWS, WIDTH)),
    "gelu.gradient": lambda draw: kernel("gelu.gradient")(draw(ROWS, WIDTH), draw(ROWS, WIDTH)),
    "rotary.turn": rotary,
    "linear_cross_entropy.losses_and_slopes": losses,
    "head_gradient.head_gradient": head_gradient,
    "attention.probabilities": lambda draw: kernel("attention.probabilities")(draw(3, 2 * 60, 90), draw(60, 50)),
    "lora_linear.write_changes": low_rank,
    "lora_linear.change_gradients": low_rank,
    "rounded.rows": rounded_products,
    "rounded.add_product": rounded_products,
    "rounded.add_transposed_product": rounded_products,
    "eight_bit.add_product": few_rows,
    "four_bit.numbers": four_bits,
}
ATTENTION = {
    f"{code.name}-{num_ahead}": attention(code, num_ahead)
    for code in (part_attention.ROW, part_attention.SHORT)
    for num_ahead in (0, 10)
}


def test_every_kernel_is_here():
    for module in pkgutil.iter_modules(tunesmith.kernels.__path__):
        if not module.ispkg:
            importlib.import_module(f"tunesmith.kernels.{module.name}")
    assert set(KERNELS) == set(by_device.FUNCTIONS)


@pytest.mark.parametrize("dtype", compiled.FORMATS, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", [*KERNELS, *ATTENTION])
def test_threads_change_nothing(name: str, dtype: torch.dtype):
    if name.startswith("row_attention") and dtype != torch.bfloat16:
        pytest.skip("of bfloat16 alone")
    found = []
    for number in (1, 2, 3):
        with threads.limited(number):
            found.append(list(tensors({**KERNELS, **ATTENTION}[name](Numbers(dtype)))))
    assert found[0]
    assert all(torch.equal(one, other) for several in found[1:] for one, other in zip(found[0], several, strict=True))
    assert all(t.isfinite().all() for t in found[0])
