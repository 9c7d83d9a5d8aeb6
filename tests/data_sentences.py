"""Random sentences that have nothing in common."""

from __future__ import annotations

import random

VOCABULARY = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=3 + i % 7)) for i in range(3000)]


def sentences(count: int, seed: int = 0, words: int = 20) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(VOCABULARY, k=words)) for _ in range(count)]
