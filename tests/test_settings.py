from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from tunesmith import settings
from tunesmith.errors import SettingsError, UnknownName
from tunesmith.settings import (
    DataSettings,
    FitSettings,
    TrainingSettings,
    check_value,
    from_mapping,
    load_toml,
    merge,
    to_mapping,
)


def test_defaults_from_an_empty_tree():
    assert from_mapping(FitSettings, {}, "t.toml") == FitSettings()


def test_a_tree_becomes_typed_settings():
    tree = {
        "model": "m",
        "method": {"name": "x", "rank": 8},
        "data": {"data": ["a.csv", "b.csv"], "max_rows": 10},
        "training": {"epochs": 2, "max_time": "10m", "schedule": "linear"},
    }
    chosen = from_mapping(FitSettings, tree, "t.toml")
    assert chosen.method == {"name": "x", "rank": 8}
    assert chosen.data == DataSettings(data=("a.csv", "b.csv"), max_rows=10)
    assert chosen.training == TrainingSettings(epochs=2.0, max_time=600.0, schedule="linear")
    assert isinstance(chosen.training.epochs, float)


def test_there_and_back_through_json():
    chosen = from_mapping(FitSettings, {"model": "m", "data": {"data": ["a"]}, "training": {"seed": 3}}, "t.toml")
    assert from_mapping(FitSettings, json.loads(json.dumps(to_mapping(chosen))), "run.json") == chosen


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"training": {"epocs": 2}}, r"t\.toml: unknown key `training\.epocs`\. Did you mean `training\.epochs`\?"),
        ({"epochs": 2}, r"unknown key `epochs`\. Did you mean `training\.epochs`\?"),
        ({"training": {"model": "m"}}, r"unknown key `training\.model`\. Did you mean `model`\?"),
        ({"data": {"max_row": 2}}, r"Did you mean `data\.max_rows`\?"),
        ({"zzzzzz": 2}, r"Known: model, task, method, data, training, out\."),
        ({"training": {"epochs": "2"}}, r"`training\.epochs` must be a number, found '2'"),
        ({"training": {"epochs": True}}, r"`training\.epochs` must be a number, found True"),
        ({"training": {"epochs": float("nan")}}, r"`training\.epochs` must be a number, found nan"),
        ({"training": {"epochs": 0}}, r"`training\.epochs` must be above 0, found 0"),
        ({"training": {"steps": 2.5}}, r"`training\.steps` must be a whole number, found 2\.5"),
        ({"training": {"steps": 0}}, r"`training\.steps` must be at least 1, found 0"),
        ({"training": {"warmup_share": 1.5}}, r"`training\.warmup_share` must be at least 0 and at most 1, found 1\.5"),
        (
            {"training": {"schedule": "cosin"}},
            r"must be one of cosine, linear, constant; found 'cosin'\. Did you mean 'cosine'\?",
        ),
        ({"training": {"max_time": "ten"}}, r"`training\.max_time`: 'ten' is not a time"),
        ({"training": {"max_time": 0}}, r"`training\.max_time` must be above 0"),
        ({"training": {"seed": 2**63}}, r"`training\.seed`: 9223372036854775808 does not fit in 64 bits"),
        ({"training": {"steps": 10**310}}, r"`training\.steps`: 10+ does not fit in 64 bits"),
        ({"training": {"learning_rate": 10**310}}, r"`training\.learning_rate`: 10+ does not fit in 64 bits"),
        ({"training": 3}, r"`training` must be a table of settings, found 3"),
        ({"data": {"data": [1]}}, r"`data\.data` must be a text or a list of texts, found \[1\]"),
        ({"model": 3}, r"`model` must be a text, found 3"),
        ({"method": 3}, r"`method` must be a method's name or a table"),
        ({"task": None, "model": None}, r"`task` must be one of auto, chat"),
    ],
)
def test_a_mistake_names_the_key(tree, message):
    with pytest.raises(SettingsError, match=message):
        from_mapping(FitSettings, tree, "t.toml")


def test_one_text_stands_for_a_list_of_one():
    assert from_mapping(DataSettings, {"data": "a.csv"}, "t.toml").data == ("a.csv",)


def test_a_bare_method_name_stands_for_its_defaults():
    assert from_mapping(FitSettings, {"method": "full"}, "t.toml").method == {"name": "full"}
    assert from_mapping(FitSettings, {"method": {"rank": 4}}, "t.toml").method == {"name": settings.DEFAULT_METHOD, "rank": 4}


def test_numbers_from_the_command_line_are_text():
    assert check_value("8", int, "--rank", from_text=True) == 8
    assert check_value("1e-3", float | None, "--learning-rate", from_text=True) == 1e-3
    with pytest.raises(SettingsError, match=r"--rank must be a whole number, found '8\.5'"):
        check_value("8.5", int, "--rank", from_text=True)
    with pytest.raises(SettingsError, match="--rate must be a number, found 'inf'"):
        check_value("inf", float, "--rate", from_text=True)


def test_the_largest_seed_is_one_that_torch_takes():
    seed = check_value(str(2**63 - 1), int, "--seed", from_text=True)
    assert isinstance(seed, int)
    torch.manual_seed(seed)
    with pytest.raises(SettingsError, match=r"--seed: '9223372036854775808' does not fit in 64 bits"):
        check_value(str(2**63), int, "--seed", from_text=True)


def test_none_is_for_optional_settings_only():
    assert check_value(None, int | None, "x") is None
    with pytest.raises(SettingsError, match="x must be a whole number, found None"):
        check_value(None, int, "x")


def test_a_switch():
    assert check_value(True, bool, "x") is True
    with pytest.raises(SettingsError, match="x must be true or false, found 1"):
        check_value(1, bool, "x")


def test_later_layers_win():
    merged = merge({"model": "a", "training": {"epochs": 1, "seed": 5}}, {"training": {"epochs": 2}}, {"model": "b"})
    assert merged == {"model": "b", "training": {"epochs": 2, "seed": 5}}


def test_another_method_drops_the_settings_of_the_one_before():
    below = {"method": {"name": "lora", "rank": 4}}
    assert merge(below, {"method": {"alpha": 8}}) == {"method": {"name": "lora", "rank": 4, "alpha": 8}}
    assert merge(below, {"method": "full"}) == {"method": {"name": "full"}}
    assert merge(below, {"method": "lora"}) == below


def test_merging_changes_no_layer():
    below = {"training": {"epochs": 1}}
    merge(below, {"training": {"epochs": 2}})
    assert below == {"training": {"epochs": 1}}


def test_toml(tmp_path):
    path = tmp_path / "t.toml"
    path.write_bytes("\ufeffmodel = 'm'\n[training]\nepochs = 2\n".encode())
    assert load_toml(path) == {"model": "m", "training": {"epochs": 2}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"a = 1\nb = = 2", r"is not valid TOML: .*line 2"),
        (b"a = " + b"9" * 5000, r"is not valid TOML: .*4300 digits"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8"),
    ],
)
def test_a_bad_toml_file(tmp_path, content, message):
    path = tmp_path / "t.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        load_toml(path)


def test_every_preset_is_valid():
    for name in settings.preset_names():
        from_mapping(FitSettings, settings.load_preset(name), name)


def test_unknown_preset():
    with pytest.raises(UnknownName, match="Unknown preset 'nope'"):
        settings.load_preset("nope")


def test_a_preset_is_read_from_its_file(tmp_path, monkeypatch):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "quick.toml").write_text("[training]\nsteps = 3\n")
    monkeypatch.setattr(settings.resources, "files", lambda package: tmp_path)
    assert settings.preset_names() == ["quick"]
    assert settings.load_preset("quick") == {"training": {"steps": 3}}
    with pytest.raises(UnknownName, match="Did you mean 'quick'"):
        settings.load_preset("quik")


@pytest.mark.parametrize("layout", [FitSettings, DataSettings, TrainingSettings])
def test_settings_cannot_change(layout):
    with pytest.raises(dataclasses.FrozenInstanceError):
        layout().model = "x"
