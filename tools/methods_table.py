"""The table of all methods and presets in docs/methods.md, made from the code.

python tools/methods_table.py docs/methods.md    write it between the markers
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, LlamaConfig, PreTrainedModel

from tunesmith import registry, settings
from tunesmith.method import Method
from tunesmith.model import anatomy

START, END = "<!-- methods -->", "<!-- end of methods -->"
FOLDER = "tunesmith.methods"


def table() -> str:
    """One row per method and preset, with the numbers that learn in the two starter models, counted without weights."""
    head = "| method | equation | paper | learns in starter:smollm2 | in starter:minilm | starts as the base | merges |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *(_row(name, method) for name, method in _all())])


def written(text: str) -> str:
    """`text` with what stands between the markers replaced by the table.

    Raises:
        ValueError: If a marker is missing.
    """
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


def _all() -> Iterator[tuple[str, Method]]:
    """Every method with its default settings, then every preset."""
    for name in registry.names(FOLDER):
        yield name, settings.from_mapping(registry.find(FOLDER, name, Method), {}, name)
    for name in settings.preset_names():
        found = settings.merge(settings.load_preset(name)).get("method")
        if found is not None:
            tree = settings.check_method(found, name)
            kind = registry.find(FOLDER, str(tree.pop("name")), Method)
            yield f"{name} (preset of {kind.name})", settings.from_mapping(kind, tree, name)


def _row(name: str, method: Method) -> str:
    document = inspect.cleandoc(importlib.import_module(type(method).__module__).__doc__ or "")
    equation = (document.split("\n\n")[1:] or [""])[0].splitlines()
    formulas = "<br>".join(f"`{' '.join(line.split('      ')[0].split()).replace('|', chr(92) + '|')}`" for line in equation)
    address = f"[{method.paper.rpartition('/')[2]}]({method.paper})" if method.paper.startswith("http") else "none"
    learnt = [f"{_num_learnt(model, method):,}" for model in _starters()]
    facts = ["yes" if claim else "no" for claim in (method.starts_as_identity, method.mergeable)]
    return f"| {name} | {formulas} | {address} | {' | '.join([*learnt, *facts])} |"


def _num_learnt(model: PreTrainedModel, method: Method) -> int:
    method.attach(model)
    return anatomy.count_parameters(model)[1]


def _starters() -> Iterator[PreTrainedModel]:
    """Fresh models of the two starters' sizes, without weights."""
    llama = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, tie_word_embeddings=True,
    )  # fmt: skip
    bert = BertConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12)
    with torch.device("meta"):
        yield AutoModelForCausalLM.from_config(llama)
        yield AutoModelForSequenceClassification.from_config(bert)


def main(arguments: list[str]) -> None:
    """Print the table, or write it into the files named."""
    if not arguments:
        print(table())
    for name in arguments:
        path = Path(name)
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
