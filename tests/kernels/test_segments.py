"""Where the rows of a stream begin and end, and who may look at whom."""

import pytest
import torch

from tunesmith.kernels.segments import Segments


@pytest.fixture
def segments() -> Segments:
    return Segments([3, 1, 2])


def test_places(segments: Segments):
    assert list(segments) == [slice(0, 3), slice(3, 4), slice(4, 6)]
    assert segments.starts.tolist() == [0, 3, 4]
    assert segments.last.tolist() == [2, 3, 5]
    assert segments.layout.query_ends.tolist() == segments.layout.key_ends.tolist() == [0, 3, 4, 6]
    assert segments.layout.query_ends.dtype == segments.layout.key_ends.dtype == torch.int32
    assert segments.positions.tolist() == [0, 1, 2, 0, 0, 1]


@pytest.mark.parametrize("lengths", [[], [2, 0, 1]])
def test_an_empty_stream_or_segment_is_refused(lengths: list[int]):
    with pytest.raises(AssertionError, match="segment"):
        Segments(lengths)


def _seen(mask: torch.Tensor | None) -> list[list[int]]:
    assert mask is not None
    assert set(mask.unique().tolist()) <= {0.0, -torch.inf}
    return (mask == 0).int().tolist()


def test_causal(segments: Segments):
    mask = segments.mask(3, causal=True, window=None, dtype=torch.float32)
    assert _seen(mask) == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_a_window_of_two_sees_itself_and_the_token_before(segments: Segments):
    mask = segments.mask(4, causal=True, window=2, dtype=torch.float32)
    assert _seen(mask) == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_a_window_looks_both_ways_where_nothing_is_causal(segments: Segments):
    mask = segments.mask(4, causal=False, window=2, dtype=torch.float64)
    assert _seen(mask) == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize(("length", "causal", "window"), [(1, True, None), (5, False, None), (5, False, 5), (1, True, 1)])
def test_no_mask_where_all_may_look_at_all(segments: Segments, length: int, causal: bool, window: int | None):
    assert segments.mask(length, causal=causal, window=window, dtype=torch.float32) is None


def test_one_window_short_of_the_length_needs_a_mask(segments: Segments):
    assert _seen(segments.mask(3, causal=False, window=2, dtype=torch.float32)) == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]


def test_masks_are_made_once_for_each_question(segments: Segments):
    first = segments.mask(3, causal=True, window=None, dtype=torch.float32)
    assert segments.mask(3, causal=True, window=None, dtype=torch.float32) is first
    other = segments.mask(3, causal=True, window=None, dtype=torch.float64)
    assert other is not None
    assert other.dtype == torch.float64
