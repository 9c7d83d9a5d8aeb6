"""The table of all methods and presets in docs/methods.md, made from the code.

python tools/methods_table.py docs/methods.md    write it between the markers
"""

from __future__ import annotations

import sys

from transformers import BertConfig, LlamaConfig

from section import Section, print_or_write
from tunesmith.errors import InputError
from tunesmith.planning import catalogue, parameters
from tunesmith.planning.catalogue import Entry
from tunesmith.planning.parameters import Count

SECTION = Section("methods")
_SMOLLM2 = LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    vocab_size=49152, tie_word_embeddings=True,
)  # fmt: skip
_MINILM = BertConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12)


def table() -> str:
    """One row per method and preset, with the numbers that learn in the two starter models, counted without weights."""
    entries = catalogue.entries()
    counts = [parameters.count(config, entries) for config in (_SMOLLM2, _MINILM)]
    head = "| method | equation | paper | learns in starter:smollm2 | in starter:minilm | starts as the base | merges |"
    rows = (_row(entry, [count[entry.name] for count in counts]) for entry in entries)
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


def written(text: str) -> str:
    """`text` with what stands between the markers replaced by the table.

    Raises:
        ValueError: If a marker is missing.
    """
    return SECTION.put(text, table())


def _row(entry: Entry, counts: list[Count | InputError]) -> str:
    name = f"{entry.name} (preset of {entry.preset_of})" if entry.preset_of else entry.name
    equation = "<br>".join(f"`{formula.replace('|', chr(92) + '|')}`" for formula in entry.equations)
    paper = f"[{entry.paper.rpartition('/')[2]}]({entry.paper})" if entry.paper.startswith("http") else "none"
    learnt = ["does not fit" if isinstance(count, InputError) else f"{count.num_trainable:,}" for count in counts]
    facts = ["yes" if claim else "no" for claim in (entry.starts_as_identity, entry.mergeable)]
    return f"| {name} | {equation} | {paper} | {' | '.join([*learnt, *facts])} |"


def main(arguments: list[str]) -> None:
    """Print the table, or write it into the files named."""
    print_or_write(arguments, table, written)


if __name__ == "__main__":
    main(sys.argv[1:])
