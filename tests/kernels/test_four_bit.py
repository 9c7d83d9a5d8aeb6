"""Weights in four bits: against bitsandbytes, against the definition, and the bits that they take."""

from __future__ import annotations

import pytest
import torch

from tunesmith.kernels import four_bit, spans
from tunesmith.kernels.four_bit import BLOCK, FourBit
from tunesmith.kernels.frozen_linear import dense

SHAPES = [(256, 64), (300, 100), (70, 130), (1, 64)]  # bitsandbytes takes half a minute for fewer than 64 numbers


def weight(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def functional():
    return pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed", exc_type=ImportError)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_codes_are_those_of_bitsandbytes(functional, shape):
    ours = four_bit.quantize(weight(shape))
    theirs, _ = functional.quantize_4bit(weight(shape), blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    num_whole = weight(shape).numel() // 2  # ours fills the last block up
    assert torch.equal(ours.codes[:num_whole], theirs.view(-1)[:num_whole])


@pytest.mark.parametrize("shape", SHAPES)
def test_values_from_the_codes_of_bitsandbytes_are_its_own(functional, shape):
    codes, state = functional.quantize_4bit(weight(shape), blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    filled = torch.zeros(len(state.absmax) * BLOCK // 2, dtype=torch.uint8)
    filled[: codes.numel()] = codes.view(-1)
    stored = FourBit(filled, state.absmax, state.state2.absmax, state.offset, shape)
    for dtype in (torch.float32, torch.bfloat16):
        state.dtype = dtype
        assert torch.equal(dense(stored, dtype), functional.dequantize_4bit(codes, state))


def test_the_scales_have_the_levels_of_bitsandbytes_and_the_nearest_of_them(functional):
    w = weight((512, 256))
    ours = four_bit.quantize(w)
    _, state = functional.quantize_4bit(w, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    assert torch.equal(four_bit.fine_levels(torch.device("cpu")), state.state2.code)
    assert torch.equal(ours.group_scales, state.state2.absmax)
    true = w.view(-1, BLOCK).abs().amax(1)
    theirs = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    # Where bitsandbytes differs (a few in a thousand, halfway between two levels), it is farther from the truth.
    assert (ours.scale_codes != state.absmax).float().mean() < 0.005
    assert ((four_bit.scales_of(ours, slice(0, len(ours.scale_codes))) - true).abs() <= (theirs - true).abs() + 1e-7).all()


def test_the_levels_of_bitsandbytes(functional):
    for levels in ("nf4", "fp4"):
        theirs = functional.get_4bit_type(levels, device="cpu").unique()
        assert torch.equal(torch.tensor(four_bit._LEVELS[levels]).unique(), theirs)


@pytest.mark.parametrize("levels", ["nf4", "fp4", "int4"])
def test_every_number_gets_its_nearest_level(levels):
    w = weight((64, 256))
    stored = four_bit.quantize(w, levels)
    values, scales = torch.tensor(four_bit._LEVELS[levels]), w.view(-1, BLOCK).abs().amax(1)
    codes = torch.stack([stored.codes >> 4, stored.codes & 15], 1).view(-1, BLOCK).long()
    scaled = w.view(-1, BLOCK) / scales[:, None]
    chosen, best = (scaled - values[codes]).abs(), (scaled[..., None] - values).abs().amin(-1)
    assert (chosen <= best + 1e-6).all()


def test_bits_of_a_number():
    w = weight((576, 1536))
    stored = four_bit.quantize(w)
    parts = (stored.codes, stored.scale_codes, stored.group_scales, stored.mean_scale)
    bits = sum(part.nbytes for part in parts) * 8 / w.numel()
    assert bits == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-3)
    single = 4 + 32 / 64
    assert single - bits == pytest.approx(0.373, abs=1e-3)


def test_rows_come_in_order(monkeypatch):
    monkeypatch.setitem(spans._DEQUANTIZED_AT_ONCE, "cpu", 2**18)
    parts = list(four_bit.quantize(weight((1000, 1536))).row_blocks(torch.bfloat16))
    assert [rows.start for rows, _ in parts] == [0, *[rows.stop for rows, _ in parts][:-1]]
    assert parts[-1][0].stop == 1000
    assert all(block.numel() <= 2**18 and block.dtype == torch.bfloat16 for _, block in parts)


def test_a_layer_of_a_small_model_comes_in_one_piece_and_one_of_a_large_model_in_pieces_of_32_mb():
    """A product that is cut into pieces of 128 rows takes a quarter longer."""
    small, large = (four_bit.quantize(torch.empty(shape, device="meta")) for shape in ((1536, 576), (14336, 4096)))
    assert len(list(small.row_blocks(torch.float32))) == 1
    assert all(block.nbytes <= 2**25 for _, block in large.row_blocks(torch.float32))


def test_rows_that_are_all_zero_stay_zero():
    w = weight((64, 64))
    w[3:9] = 0
    values = dense(four_bit.quantize(w))
    # The scale of an empty block is one of 256 levels, and none of them need be zero; its codes are.
    assert torch.isfinite(values).all()
    assert (values[3:9] == 0).all()


def test_without_weights():
    stored = four_bit.quantize(torch.empty(64, 128, device="meta"))
    assert dense(stored).shape == (64, 128)
    assert dense(stored).is_meta
