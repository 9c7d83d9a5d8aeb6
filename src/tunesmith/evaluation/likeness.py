"""How like a written answer is to the expected one: ROUGE-L (Lin 2004), and whether they are the same.

ROUGE-L of a row is the F1 of the longest common subsequence of words: F = 2 P R / (P + R), P = LCS / words written,
R = LCS / words expected. Case and punctuation do not count. Words are runs of letters and digits of any script; for English
text the scores are those of the reference implementation without its stemmer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.evaluation.statistics import mean, wilson
from tunesmith.measure import Measure


def likeness(written: Sequence[str], expected: Sequence[str], *, seed: int = 0) -> dict[str, Measure]:
    """`rouge_l` (bootstrap interval over rows) and `exact_match` (Wilson interval) of written answers.

    Raises:
        DataError: If there are no rows.
    """
    same = exact_matches(written, expected)
    return {"rouge_l": mean(rouge_l(written, expected), seed=seed), "exact_match": wilson(int(same.sum()), len(same))}


def rouge_l(written: Sequence[str], expected: Sequence[str]) -> NDArray[np.float64]:
    """ROUGE-L of each row (rows,), between 0 and 1; 0 where one of the two has no word."""
    from torchmetrics.functional.text.rouge import rouge_score  # takes 2 s to import, and only writing needs it

    scores = []
    for answer, wanted in zip(written, expected, strict=True):
        found = rouge_score(answer, wanted, rouge_keys="rougeL", normalizer=str.lower, tokenizer=_words)
        scores.append(float(found["rougeL_fmeasure"]))
    return np.array(scores, dtype=np.float64)


def exact_matches(written: Sequence[str], expected: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each row (rows,) is the expected text; only how much space stands between words does not count."""
    pairs = zip(written, expected, strict=True)
    return np.array([answer.split() == wanted.split() for answer, wanted in pairs], dtype=np.bool_)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)
