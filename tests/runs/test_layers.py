from __future__ import annotations

import pytest

from tunesmith import settings
from tunesmith.errors import SettingsError, UnknownName
from tunesmith.runs import layers

PRESETS: dict[str, dict[str, object]] = {
    "quick": {"method": {"name": "lora", "rank": 2, "alpha": 4}, "training": {"epochs": 1, "seed": 2}},
    "careful": {"training": {"epochs": 9}},
}


@pytest.fixture(autouse=True)
def _presets(monkeypatch):
    monkeypatch.setattr(settings, "preset_names", lambda: sorted(PRESETS))
    monkeypatch.setattr(settings, "load_preset", PRESETS.__getitem__)


def test_preset_below_file_below_flags(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text("[training]\nepochs = 2\nrows_per_step = 4\n")
    chosen = layers.resolve({"training": {"rows_per_step": 8}}, config=str(file), preset="quick")
    assert (chosen.training.seed, chosen.training.epochs, chosen.training.rows_per_step) == (2, 2.0, 8)
    assert chosen.method == {"name": "lora", "rank": 2, "alpha": 4}


def test_a_method_may_be_a_preset(tmp_path):
    chosen = layers.resolve({"method": {"name": "quick", "rank": 3}}, config=None, preset="careful")
    assert chosen.method == {"name": "lora", "rank": 3, "alpha": 4}
    assert chosen.training.epochs == 1.0, "what was named as the method comes after --preset"


def test_a_name_that_is_neither():
    with pytest.raises(UnknownName, match="Unknown method 'quik'. Did you mean 'quick'?"):
        layers.resolve({"method": {"name": "quik"}}, config=None, preset=None)


def test_the_file_is_named_in_its_errors(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text("[training]\nepocs = 2\n")
    with pytest.raises(SettingsError, match="t.toml: unknown key `training.epocs`"):
        layers.resolve({}, config=str(file), preset=None)


def test_a_method_table_without_a_name_is_of_the_default_method(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text("[method]\nrank = 4\n")
    refined = layers.resolve({"method": {"name": "lora", "alpha": 8}}, config=str(file), preset=None)
    assert refined.method == {"name": "lora", "rank": 4, "alpha": 8}
    other = layers.resolve({"method": {"name": "ia3"}}, config=str(file), preset=None)
    assert other.method == {"name": "ia3"}
    assert layers.resolve({}, config=str(file), preset="quick").method == {"name": "lora", "rank": 4, "alpha": 4}


def test_rows_to_evaluate_on_and_a_share_to_hold_out(tmp_path):
    with pytest.raises(SettingsError, match="--eval gives the rows.*Leave one of the two out"):
        layers.resolve({"data": {"eval": "more.csv", "test_share": 0.2}}, config=None, preset=None)
