"""What the gauge says of unchanged, turned, noisy and ruined representations."""

import numpy as np
import pytest
import torch

from tunesmith.errors import DataError, RunError
from tunesmith.evaluation.encoder_gauge import EncoderGauge
from tunesmith.evaluation.retention import load_record, save_record

NUM_ROWS, HIDDEN = 60, 16
ROWS = [np.array([number, 1, 2], np.int32) for number in range(NUM_ROWS)]


def _encoder(states):
    """A model that gives row n of `states` to the text that begins with token n, in blocks of one row."""
    return _reader(lambda rows: [states[int(row[0])][None] for row in rows])


def _reader(states_of):
    return lambda passes, work: [work(one, states_of(one.rows)) for one in passes]


def _states(seed=0):
    # The large common part that the states of real encoders share.
    return torch.randn(NUM_ROWS, HIDDEN, generator=torch.Generator().manual_seed(seed)) + 20.0


def _measure(base, tuned):
    gauge = EncoderGauge(ROWS)
    return gauge.after(_encoder(tuned), gauge.before(_encoder(base)))


def test_an_unchanged_encoder_has_forgotten_exactly_nothing(tmp_path):
    gauge = EncoderGauge(ROWS)
    save_record(tmp_path / "base", gauge.before(_encoder(_states())))
    found = gauge.after(_encoder(_states()), load_record(tmp_path / "base"))
    assert {name: measure.value for name, measure in found.measures.items()} == {
        "representation_similarity": 1.0,
        "kept_neighbours": 1.0,
    }
    assert found.sentence == "remembers: general texts are represented exactly as by the base model."


def test_another_random_encoder_keeps_neighbours_by_chance_only():
    found = _measure(_states(), _states(seed=1))
    assert found.measures["representation_similarity"].value == pytest.approx(0.0, abs=0.1)
    assert found.measures["kept_neighbours"].value == pytest.approx(10 / 59, abs=0.06)
    assert found.level == "forgot much"
    assert "(by chance 17 %)" in found.sentence


def test_a_turned_space_keeps_its_neighbours_but_not_its_directions():
    turn = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=torch.Generator().manual_seed(2))).Q
    found = _measure(_states(), (_states() - 20) @ turn + 20)
    assert found.measures["kept_neighbours"].value > 0.99
    assert abs(found.measures["representation_similarity"].value) < 0.5
    assert found.level == "remembers"


def test_a_shift_and_a_scale_of_all_states_are_nothing():
    found = _measure(_states(), 3 * _states() + 7)
    assert found.measures["representation_similarity"].value == pytest.approx(1.0, abs=1e-6)
    assert found.measures["kept_neighbours"].value == 1.0


def test_more_noise_is_more_forgetting():
    found = [_measure(_states(), _states() + noise * (_states(seed=3) - 20)) for noise in (0.05, 0.5, 3.0)]
    for name in ("representation_similarity", "kept_neighbours"):
        values = [retention.measures[name].value for retention in found]
        assert values == sorted(values, reverse=True)
        assert values[0] > 0.85
    assert [retention.level for retention in found] == ["remembers", "forgot a little", "forgot much"]
    measure = found[1].measures["kept_neighbours"]
    assert measure.low < measure.value < measure.high
    assert measure.count == NUM_ROWS


def test_a_collapsed_encoder_is_not_similar_to_anything():
    found = _measure(_states(), torch.ones(NUM_ROWS, HIDDEN))
    assert found.measures["representation_similarity"].value == 0.0
    assert found.level == "forgot much"


def test_passes_change_nothing():
    one_by_one = EncoderGauge(ROWS, tokens_per_pass=1)
    tuned = _states() + 0.5 * _states(seed=4)
    assert one_by_one.after(_encoder(tuned), one_by_one.before(_encoder(_states()))) == _measure(_states(), tuned)


def test_wrong_input_is_refused():
    gauge = EncoderGauge(ROWS)
    record = gauge.before(_encoder(_states()))
    with pytest.raises(RunError, match="other general texts"):
        EncoderGauge(ROWS[:-1]).after(_encoder(_states()), record)
    with pytest.raises(DataError, match="at least 3 texts"):
        EncoderGauge(ROWS[:2]).before(_encoder(_states()))
    with pytest.raises(ValueError, match="1 states for 60 rows"):
        gauge.before(_reader(lambda rows: [_states()[:1]]))
