"""The rows of a suite: texts of a starter data set to tokens and labels, by the tokenizer of the model."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from benchmarks.workload import IGNORED, Row, Work, Workload, choose

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABELS = ("negative", "positive")
"""Names of the classes of film reviews, in the order of their numbers."""
SEED = 20
SURPLUS = 4
"""So many times the rows that are needed are tokenised: some are too long."""


class Instruction(TypedDict):
    """One row of the instruction data."""

    instruction: str
    input: str
    output: str


class Review(TypedDict):
    """One row of the film reviews."""

    text: str
    label: str


def tokenised(tokenizer: PreTrainedTokenizerBase, data: Path, work: Work) -> Workload:
    """The rows of a data set as a model reads them, chosen by purpose."""
    num_rows = SURPLUS * (work.num_warmup + work.num_timed + work.num_check)
    text = data.read_text(encoding="utf-8")
    if work.task == "classification":
        reviews: list[Review] = [json.loads(line) for line in text.splitlines()]
        random.Random(SEED).shuffle(reviews)  # the file has one class first
        rows = [classified(review, lambda words: _ids(tokenizer, words, special=True)) for review in reviews[:num_rows]]
    else:
        instructions: list[Instruction] = json.loads(text)[:num_rows]
        rows = [answered(example, _renderer(tokenizer), lambda words: _ids(tokenizer, words)) for example in instructions]
    return choose(rows, cast(int, tokenizer.pad_token_id), work)


def answered(example: Instruction, render: Callable[[str, str | None], str], encode: Callable[[str], list[int]]) -> Row:
    """Tokens of a prompt and its answer; only the answer and its end-of-turn token carry loss.

    Args:
        example: The instruction, its optional input and the answer.
        render: (prompt, answer) to text; without an answer, the text up to where the answer begins.
        encode: Text to token ids, without special tokens of its own.

    Raises:
        ValueError: The tokens of the prompt are not the beginning of those of the conversation.
    """
    prompt = "\n\n".join(part for part in (example["instruction"], example["input"]) if part)
    prompt_ids = encode(render(prompt, None))
    # The template ends a turn with a line break that the model never has to produce.
    ids = encode(render(prompt, example["output"]).rstrip("\n"))
    if ids[: len(prompt_ids)] != prompt_ids:
        raise ValueError(f"tokenisation merges the prompt and its answer: {example['instruction'][:60]!r}")
    return {"input_ids": ids, "labels": [IGNORED] * len(prompt_ids) + ids[len(prompt_ids) :]}


def classified(review: Review, encode: Callable[[str], list[int]]) -> Row:
    """Tokens of a text, and the number of its class."""
    return {"input_ids": encode(review["text"]), "labels": [LABELS.index(review["label"])]}


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    return cast(list[int], tokenizer(text, add_special_tokens=special)["input_ids"])


def _renderer(tokenizer: PreTrainedTokenizerBase) -> Callable[[str, str | None], str]:
    """The model's own chat template for one prompt and its answer."""

    def render(prompt: str, answer: str | None) -> str:
        turns = [{"role": "user", "content": prompt}]
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
        return cast(str, tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None))

    return render
