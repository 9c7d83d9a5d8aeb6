"""What the inputs of a head get of the slopes of their logits, in 16 bits, by the few words that matter.

    dh = dz W  =  sum of chosen words  dz_w W_w  +  (sum of the others  dz_w)  W',     W' the mean of the others' W_w

A word is chosen if it is the target of a row of the chunk, or if any row expects it with more than 2^-16. The others share one
row of the weight: their mean, each as often as all rows together expect it. So the sum over the rows is exact, and what a row
loses is only how its unlikely words differ from those of all. Cut Cross-Entropy (Wijmans et al. 2024, arXiv:2411.09009) leaves
out words below 2^-12 without making up for them. `docs/decisions/0012` has what either costs.
"""

import torch
from torch import Tensor

from tunesmith.kernels.cpu.compiled import call, pairs_are_fast, up_to

LEAST = 2.0**-16
"""Likelihood above which a word is computed by itself."""
MOST_CHOSEN = 0.5
"""Of the vocabulary; above, all words are computed by themselves, which is as fast."""
_ROWS, _PANEL, _WORDS = 8, 32, 256  # as in head_gradient.c and pairs.h


def head_gradient(slopes: Tensor, weight: Tensor, scale: float, dhidden: Tensor) -> None:
    """See `tunesmith.kernels.head_gradient.head_gradient`."""
    in_pairs = slopes.dtype == weight.dtype == torch.bfloat16 and pairs_are_fast()
    if not (in_pairs and _by_few_words(slopes.contiguous(), weight.contiguous(), LEAST * abs(scale), dhidden)):
        torch.mm(slopes, weight, out=dhidden)


def _by_few_words(slopes: Tensor, weight: Tensor, least: float, dhidden: Tensor) -> bool:
    """Whether few words matter; then the gradient is made of them."""
    (rows, vocabulary), hidden = slopes.shape, weight.shape[1]
    is_chosen, sums, row_sums = torch.empty(vocabulary, dtype=torch.bool), torch.empty(vocabulary), torch.empty(rows)
    call("choose_words", slopes.dtype, slopes, is_chosen, sums, row_sums, rows, vocabulary, least)
    chosen = is_chosen.nonzero()[:, 0]
    if len(chosen) > MOST_CHOSEN * vocabulary:
        return False
    all_rows, width = up_to(_ROWS, rows), up_to(_PANEL, hidden)
    total, mean = torch.zeros(all_rows, width), torch.empty(hidden)
    few, panels = (slopes.new_empty(n * _WORDS) for n in (all_rows, width))
    given = (slopes, weight, chosen, sums, row_sums, dhidden)
    call("gradient_by_few_words", slopes.dtype, *given, total, few, panels, mean, rows, vocabulary, hidden, len(chosen))
    return True
