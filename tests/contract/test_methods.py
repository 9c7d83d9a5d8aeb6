"""Every method keeps every promise. A method added to the package is tested here with no edit."""

import dataclasses

import pytest

from method_promises import PROMISES, Case
from tunesmith import registry
from tunesmith.checkpoint import trained
from tunesmith.commands._flags import field_docs
from tunesmith.errors import UnknownName
from tunesmith.method import Method
from tunesmith.planning import catalogue

METHODS = registry.names("tunesmith.methods")
PRESETS = [entry for entry in catalogue.entries() if entry.preset_of]
CASES = [Case("llama", "causal"), Case("gpt2", "causal"), Case("bert", "classification"), Case("t5", "seq2seq")]


def _class(name):
    return registry.find("tunesmith.methods", name, Method)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.architecture)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_promise(name, promise, case):
    promise(_class(name)(), case)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.architecture)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("entry", PRESETS, ids=lambda entry: entry.name)
def test_promise_of_a_preset(entry, promise, case):
    promise(trained.method_from(entry.method, entry.name), case)


@pytest.mark.parametrize("name", METHODS)
def test_is_its_own_frozen_configuration(name):
    cls = _class(name)
    assert dataclasses.is_dataclass(cls)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().rank = 3
    assert cls(**dataclasses.asdict(cls())) == cls()


@pytest.mark.parametrize("name", METHODS)
def test_is_documented(name):
    cls = _class(name)
    assert cls.name == name
    assert cls.__doc__ is not None
    assert not cls.__doc__.startswith(f"{cls.__name__}("), "the docstring is the one that dataclass makes up"
    assert cls.paper
    assert 0 < cls.learning_rate <= cls.learning_rate_small < 10


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_has_a_help_text(name):
    """The string below a field is what `--help` says of it."""
    cls = _class(name)
    texts = field_docs(cls)
    assert [f.name for f in dataclasses.fields(cls) if not texts.get(f.name)] == []


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(UnknownName, match="Did you mean 'lora'"):
        registry.find("tunesmith.methods", "loar", Method)
