"""The gradient by few words is as close to the exact one as 16 bits are, and the exact product wherever words are many."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tunesmith.kernels import by_device, linear_cross_entropy
from tunesmith.kernels.cpu import compiled, head_gradient
from tunesmith.kernels.head_gradient import head_gradient as gradient
from tunesmith.kernels.linear_cross_entropy import Head

ROWS, VOCABULARY, HIDDEN = 20, 3000, 50
"""Nothing is a multiple of what the code takes at a time: 8 rows, 1,024 and 256 words, 32 columns."""
EXPECTED = 37
"""Words that a row of `_slopes` expects."""
LEAST = 2.0**-12


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled.is_there():
        pytest.skip(f"needs compiled code: {compiled.why_not()}")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(head_gradient, "pairs_are_fast", lambda: True)


def _weight(seed: int = 0) -> Tensor:
    """With a mean of its own, as the rows of real heads have."""
    return (torch.randn(VOCABULARY, HIDDEN, generator=torch.Generator().manual_seed(seed)) + 0.5).bfloat16()


def _slopes(rows: int = ROWS, unlikely: float = 0.05) -> Tensor:
    """Of rows that expect few words, and each of all the others with little; float32."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(rows, VOCABULARY, generator=generator)
    shares = unlikely * torch.softmax(logits, 1)
    words = torch.randint(VOCABULARY, (rows, EXPECTED), generator=generator)
    shares.scatter_add_(1, words, (1 - unlikely) / EXPECTED * torch.ones(rows, EXPECTED))
    return shares.scatter_add_(1, words[:, :1], -torch.ones(rows, 1))


def _found(slopes: Tensor, weight: Tensor, scale: float = 1.0) -> Tensor:
    dhidden = torch.full((len(slopes), weight.shape[1]), 7.0, dtype=slopes.dtype)
    gradient(slopes, weight, scale, dhidden)
    return dhidden


def _off(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.fixture
def _by_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but few words will do, of which what `_slopes` calls unlikely are none."""
    monkeypatch.setattr(head_gradient, "LEAST", LEAST)
    monkeypatch.setattr(torch, "mm", None)


@pytest.mark.usefixtures("_by_few")
@pytest.mark.parametrize("rows", [1, 7, 8, ROWS])
def test_it_is_as_close_as_16_bits_are(rows: int):
    slopes, weight = _slopes(rows).bfloat16(), _weight()
    exact = slopes.double() @ weight.double()
    assert _off(_found(slopes, weight), exact) <= 2**-8
    without_others = slopes.double().where(slopes.abs() > LEAST, 0) @ weight.double()
    assert _off(without_others, exact) > 2**-6, "what the others make up for is more than that"


@pytest.mark.usefixtures("_by_few")
def test_over_all_rows_nothing_is_lost():
    slopes, weight = _slopes().bfloat16(), _weight()
    exact = (slopes.double() @ weight.double()).sum(0)
    rounding = 2**-9 * (slopes.double() @ weight.double()).abs().sum(0)  # of each row's result
    assert ((_found(slopes, weight).double().sum(0) - exact).abs() <= rounding).all()


@pytest.mark.usefixtures("_by_few")
@pytest.mark.parametrize("words", [0, 1, 255, 256, 257])
def test_any_number_of_words(words: int):
    """Those in front are expected by the first row, the rest by nobody."""
    slopes = torch.zeros(3, VOCABULARY, dtype=torch.bfloat16)
    slopes[0, :words] = 0.5
    exact = slopes.double() @ _weight().double()
    assert (_found(slopes, _weight()).double() - exact).abs().max() <= 2**-8 * exact.abs().max()


@pytest.mark.usefixtures("_by_few")
def test_a_target_that_is_nearly_certain_is_computed_by_itself():
    """The two words that are no targets share the mean of their rows, the one expected three times as much as the other."""
    slopes, weight = torch.zeros(2, VOCABULARY, dtype=torch.bfloat16), _weight().double()
    slopes[0, 5], slopes[0, 9], slopes[1, 7] = -(2.0**-20), 2.0**-20, 3 * 2.0**-20
    mean = (weight[9] + 3 * weight[7]) / 4
    expected = 2.0**-20 * torch.stack([mean - weight[5], 3 * mean])
    assert _off(_found(slopes, _weight()), expected) <= 2**-8


def test_where_many_words_matter_it_is_the_exact_product():
    slopes = torch.softmax(torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0)), 1).bfloat16()
    assert torch.equal(_found(slopes, _weight()), slopes @ _weight())


def test_in_float32_it_is_the_exact_product():
    slopes, weight = _slopes(), _weight().float()
    assert torch.equal(_found(slopes, weight), slopes @ weight)


@pytest.mark.usefixtures("_by_few")
def test_a_scale_of_the_logits_changes_nothing_but_the_scale():
    slopes, weight = _slopes().bfloat16(), _weight()
    assert torch.equal(_found(slopes / 64, weight, 1 / 64), _found(slopes, weight) / 64)


@pytest.mark.usefixtures("_by_few")
@pytest.mark.parametrize("place", [(0, 0), (3, 1500)])
def test_what_is_not_a_number_stays_that(place: tuple[int, int]):
    """Or a step would be taken that must not be."""
    slopes = _slopes().bfloat16()
    slopes[place] = torch.nan
    assert _found(slopes, _weight())[place[0]].isnan().all()


@pytest.mark.parametrize("learns", ["inputs", "head"])
def test_it_is_what_a_loss_over_a_frozen_head_uses(learns: str, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(linear_cross_entropy, "head_gradient", lambda *given: asked.append(given[2]) or given[3].zero_())
    hidden, weight = torch.randn(ROWS, HIDDEN, dtype=torch.bfloat16), _weight()
    (hidden if learns == "inputs" else weight).requires_grad_()
    targets = torch.arange(ROWS)
    linear_cross_entropy.linear_cross_entropy(hidden, Head(weight, scale=0.5), targets).backward()
    assert asked == ([0.5] if learns == "inputs" else [])


def test_torch_alone_computes_the_exact_product():
    with by_device.torch_alone():
        slopes = _slopes().bfloat16()
        assert torch.equal(_found(slopes, _weight()), slopes @ _weight())
