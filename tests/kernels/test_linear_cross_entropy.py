"""The chunked loss equals the obvious one and never holds `(rows, vocabulary)`."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from largest_tensor import LargestTensor
from tunesmith.kernels import linear_cross_entropy as kernel
from tunesmith.kernels.linear_cross_entropy import Head, linear_cross_entropy, plain, row_logits, row_losses

ROWS, HIDDEN, VOCABULARY = 50, 6, 40

FORMS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.3},
    "soft cap": {"softcap": 2.0},
    "all of them": {"bias": True, "scale": 1.9, "softcap": 3.0},
}


@pytest.fixture(params=[16, ROWS // 2, 10**6], ids=["many chunks", "two chunks", "one chunk"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "CHUNK_ELEMENTS_CPU", request.param * VOCABULARY)
    monkeypatch.setattr(kernel, "PART_ELEMENTS_CPU", 5 * VOCABULARY)  # does not divide a chunk


def _case(*, bias: bool = False, scale: float = 1.0, softcap: float | None = None, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, HIDDEN, generator=generator).to(dtype) for n in (ROWS, VOCABULARY))
    shift = torch.randn(VOCABULARY, generator=generator).to(dtype) if bias else None
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return hidden, Head(weight, shift, scale, softcap), targets


def _with_gradients(compute, hidden: Tensor, head: Head, targets: Tensor, factor: float = 0.7) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in (hidden, head.weight, head.bias) if t is not None]
    own = replace(head, weight=leaves[1], bias=leaves[2] if head.bias is not None else None)
    loss = compute(leaves[0], own, targets)
    return [loss.detach(), *torch.autograd.grad(loss * factor, leaves)]


def _assert_equal(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-6) -> None:
    for name, one, other in zip(("loss", "dhidden", "dweight", "dbias"), found, expected, strict=False):
        assert one.shape == other.shape, name
        assert (one - other).abs().max() <= tolerance * max(1.0, other.abs().max().item()), name
    assert len(found) == len(expected)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_loss_and_gradients(form: dict[str, object]):
    case = _case(**form)
    _assert_equal(_with_gradients(linear_cross_entropy, *case), _with_gradients(plain, *case))


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_row_losses_and_logits(form: dict[str, object]):
    hidden, head, targets = _case(**form)
    losses = row_losses(hidden, head, targets)
    assert losses.shape == (ROWS,)
    torch.testing.assert_close(losses.sum(), plain(hidden, head, targets), rtol=1e-6, atol=1e-6)
    expected = torch.nn.functional.cross_entropy(row_logits(hidden, head), targets, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_the_logits_can_be_differentiated(form: dict[str, object]):
    hidden, head, targets = _case(**form)
    leaf = hidden.requires_grad_()
    found = torch.autograd.grad(torch.nn.functional.cross_entropy(row_logits(leaf, head), targets, reduction="sum"), leaf)
    torch.testing.assert_close(found, torch.autograd.grad(plain(leaf, head, targets), leaf), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learns", [s for n in (1, 2, 3) for s in itertools.combinations(("hidden", "weight", "bias"), n)])
def test_only_what_learns_gets_a_gradient(learns: tuple[str, ...]):
    hidden, head, targets = _case(bias=True)
    assert head.bias is not None
    tensors = {"hidden": hidden, "weight": head.weight, "bias": head.bias}
    for name in learns:
        tensors[name].requires_grad_()
    expected = torch.autograd.grad(plain(hidden, head, targets), [tensors[n] for n in learns])
    linear_cross_entropy(hidden, head, targets).backward()
    assert {n for n, t in tensors.items() if t.grad is not None} == set(learns)
    _assert_equal([grad for n in learns if (grad := tensors[n].grad) is not None], list(expected))


def test_chunks_cover_all_rows_once_and_are_equal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel, "CHUNK_ELEMENTS_CPU", 16 * VOCABULARY)
    weight = torch.empty(VOCABULARY, HIDDEN)
    for rows in (0, 1, 15, 16, 17, 33, 50):
        parts = kernel._chunks(torch.empty(rows, HIDDEN), weight)
        covered = [i for part in parts for i in range(rows)[part]]
        assert covered == list(range(rows)), rows
        assert all(len(range(rows)[part]) <= 16 for part in parts)
        assert not parts or len(range(rows)[parts[-1]]) >= len(range(rows)[parts[0]]) // 2, "a thin last chunk"


def test_no_rows_at_all():
    hidden, head, _ = _case()
    leaf = hidden[:0].requires_grad_()
    loss = linear_cross_entropy(leaf, head, torch.empty(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0


def test_bfloat16_rows_are_as_close_as_bfloat16_allows():
    exact = _with_gradients(plain, *_case())
    hidden, head, targets = _case(dtype=torch.bfloat16)
    found = _with_gradients(linear_cross_entropy, hidden, head, targets)
    assert found[0].dtype == torch.float32
    assert found[1].dtype == torch.bfloat16
    _assert_equal([t.float() for t in found], exact, 0.03)


def test_huge_logits_stay_finite():
    hidden, head, targets = _case(scale=1e4)
    loss, dhidden, dweight = _with_gradients(linear_cross_entropy, hidden, head, targets)
    assert torch.isfinite(loss)
    assert torch.isfinite(dhidden).all()
    assert torch.isfinite(dweight).all()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_no_tensor_of_rows_times_vocabulary_is_ever_made(form: dict[str, object], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel, "CHUNK_ELEMENTS_CPU", 16 * VOCABULARY)
    hidden, head, targets = _case(**form)
    chunk = 16 * VOCABULARY
    with LargestTensor() as largest:
        row_losses(hidden, head, targets)
        _with_gradients(linear_cross_entropy, hidden, head, targets)
    assert largest.num_elements <= chunk < ROWS * VOCABULARY
    with LargestTensor() as largest:
        _with_gradients(plain, hidden, head, targets)
    assert largest.num_elements == ROWS * VOCABULARY, "the measure sees what the obvious way makes"


def test_the_gradient_of_the_head_is_not_held_twice(monkeypatch: pytest.MonkeyPatch):
    """The product of a chunk is added to it as it is made."""
    monkeypatch.setattr(kernel, "CHUNK_ELEMENTS_CPU", 16 * VOCABULARY)
    hidden, head, targets = _case()
    made = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.mm.default and result.shape == head.weight.shape:
                made.append(result)
            return result

    with Products():
        linear_cross_entropy(hidden, replace(head, weight=head.weight.requires_grad_()), targets)
    assert not made
