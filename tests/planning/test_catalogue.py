"""What is read from the files of methods and presets is what their classes say, and reading it imports nothing heavy."""

import dataclasses
import subprocess
import sys

import pytest

from tunesmith import registry, settings
from tunesmith.checkpoint import trained
from tunesmith.errors import UnknownName
from tunesmith.interchange import ForPeft
from tunesmith.method import Method
from tunesmith.planning import catalogue

ENTRIES = {entry.name: entry for entry in catalogue.entries()}


@pytest.mark.parametrize("name", registry.names(registry.METHODS))
def test_the_facts_are_those_of_the_class(name):
    entry, cls = ENTRIES[name], registry.find(registry.METHODS, name, Method)
    for fact in catalogue._FACTS:
        assert getattr(entry, fact) == getattr(cls, fact), fact
    assert entry.takes_positions == (cls().num_positions > 0)
    assert entry.in_peft_format == issubclass(cls, ForPeft)
    assert entry.preset_of is None
    assert entry.sentence.endswith(".")


@pytest.mark.parametrize("name", settings.preset_names())
def test_a_preset_that_sets_up_a_method_is_listed(name):
    tree = settings.load_preset(name)
    assert ("method" in tree) == (name in ENTRIES)
    if name in ENTRIES:
        entry = ENTRIES[name]
        method = trained.method_from(entry.method, name)
        assert entry.preset_of == method.name == tree["method"]["name"]
        assert {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(method).items()} == {
            **settings.to_mapping(type(method)()), **{k: v for k, v in tree["method"].items() if k != "name"}
        }  # fmt: skip
        assert entry.sentence.endswith(".")
        assert entry.paper.startswith("https://arxiv.org/abs/")


def test_presets_come_after_methods():
    kinds = [entry.preset_of is not None for entry in catalogue.entries()]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize(
    ("name", "equations"),
    [
        ("lora", ("y = W x + s B A x",)),
        ("ia3", ("k' = l_k * (W_k x)", "v' = l_v * (W_v x)", "y = W (l_ff * u)")),
        ("full", ()),
    ],
)
def test_equations_without_their_symbols(name, equations):
    assert ENTRIES[name].equations == equations


def test_an_unknown_name_gets_a_hint_from_both():
    with pytest.raises(UnknownName, match="Did you mean 'pfeiffer'"):
        catalogue.find("pfeifer")


def test_listing_loads_neither_torch_nor_numpy():
    code = "import sys; from tunesmith.planning import catalogue; assert catalogue.entries(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout.split()
    assert not {"torch", "transformers", "numpy"} & set(loaded)
