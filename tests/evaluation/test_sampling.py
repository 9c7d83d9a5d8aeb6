"""Draws follow the model's probabilities and belong to their row and step."""

import numpy as np
import pytest
import torch

from tunesmith.errors import SettingsError
from tunesmith.evaluation.sampling import Sampling, choose

LOGITS = torch.tensor([[0.0, 2.0, 1.0, -3.0, 0.5]])


def _shares(sampling, num=4000):
    chosen = choose(LOGITS.expand(num, -1), list(range(num)), 0, sampling)
    return np.bincount(chosen.numpy(), minlength=5) / num


def test_zero_temperature_takes_the_most_probable():
    assert choose(torch.tensor([[1.0, 3.0], [5.0, 3.0]]), [0, 1], 0, Sampling()).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_by_their_probability(temperature):
    expected = (LOGITS[0] / temperature).softmax(0).numpy()
    np.testing.assert_allclose(_shares(Sampling(temperature=temperature)), expected, atol=0.025)


def test_top_p_draws_only_among_the_smallest_sufficient_set():
    probabilities = LOGITS[0].softmax(0)
    # 0.57 + 0.21 = 0.78 reach 0.6 and no less.
    expected = np.array([0, probabilities[1], probabilities[2], 0, 0]) / float(probabilities[1] + probabilities[2])
    np.testing.assert_allclose(_shares(Sampling(temperature=1.0, top_p=0.6)), expected, atol=0.025)
    assert _shares(Sampling(temperature=1.0, top_p=0.1))[1] == 1.0


def test_a_draw_depends_on_seed_row_and_step_only():
    logits = LOGITS.expand(40, -1)
    sampling = Sampling(temperature=1.5)
    together = choose(logits, list(range(40)), 3, sampling)
    alone = torch.cat([choose(LOGITS, [row], 3, sampling) for row in range(40)])
    assert torch.equal(together, alone)
    for other in (
        choose(logits, list(range(40)), 4, sampling),
        choose(logits, list(range(40)), 3, Sampling(temperature=1.5, seed=1)),
    ):
        assert not torch.equal(together, other)


def test_global_random_numbers_are_left_alone():
    before = torch.random.get_rng_state()
    choose(LOGITS, [0], 0, Sampling(temperature=1.0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_ruined_model_still_gives_a_token():
    assert choose(torch.full((1, 5), torch.nan), [0], 0, Sampling(temperature=1.0)).shape == (1,)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Sampling(**wrong)
