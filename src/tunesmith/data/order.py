"""Which rows make which step: a pure function of seed, epoch and step, so that any step can be found at once."""

import numpy as np
from numpy.typing import NDArray


def permutation(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the rows in one epoch, `(num_rows,)`, drawn by a counter-based generator."""
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, epoch]))
    return generator.permutation(num_rows)


def noise_seed(seed: int, step: int, part: int) -> int:
    """A 63-bit seed for the random numbers (dropout) of one forward pass of one step."""
    return int(np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, step, part + 1])).integers(2**63 - 1))


class Order:
    """Rows of every optimizer step: epochs follow each other, each in its own order, the last step of an epoch may be short."""

    def __init__(self, num_rows: int, rows_per_step: int, seed: int) -> None:
        self.num_rows, self.rows_per_step, self.seed = num_rows, min(rows_per_step, num_rows), seed
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the rows."""
        return -(-self.num_rows // self.rows_per_step)

    def rows(self, step: int) -> NDArray[np.int64]:
        """Indices of the rows that step `step` (counted from 0) learns from."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, permutation(self.num_rows, self.seed, epoch)
        start = within * self.rows_per_step
        return self._epoch[1][start : start + self.rows_per_step]
