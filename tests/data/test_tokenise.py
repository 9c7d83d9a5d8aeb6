import numpy as np
import pytest

import tiny_tokenizer
from tunesmith.data import tokenise as module
from tunesmith.data.examples import Labelled, SourceTarget, Text
from tunesmith.data.table import IGNORED
from tunesmith.data.tokenise import tokenise

TEXTS = ["a film", "ein Film für dich ☃", "x"]


def test_classification_is_what_the_tokenizer_does():
    tokenizer = tiny_tokenizer.build("encoder")
    examples = [Labelled(text, label) for text, label in zip(TEXTS, ["b", "a", "b"], strict=True)]
    result = tokenise(examples, tokenizer, task="classification", max_length=64, labels=("a", "b"))
    assert [result.table.row(i)[0].tolist() for i in range(3)] == tokenizer(TEXTS).input_ids
    assert result.table.labels.tolist() == [1, 0, 1]
    assert result.table.token_types is None
    assert (result.num_cut_texts, result.table.num_labelled) == (0, 3)


def test_pairs_are_what_the_tokenizer_does():
    tokenizer = tiny_tokenizer.build("encoder")
    examples = [Labelled(text, "a", text[::-1]) for text in TEXTS]
    result = tokenise(examples, tokenizer, task="classification", max_length=20, labels=("a",))
    expected = tokenizer(TEXTS, [text[::-1] for text in TEXTS], truncation=True, max_length=20)
    assert [result.table.row(i)[0].tolist() for i in range(3)] == expected.input_ids
    assert result.table.token_types is not None
    assert result.table.token_types.tolist() == [kind for row in expected.token_type_ids for kind in row]
    assert result.num_cut_texts == 1


def test_texts_and_pairs_together():
    tokenizer = tiny_tokenizer.build("encoder")
    examples = [Labelled("a", "x"), Labelled("b", "x", "c")]
    result = tokenise(examples, tokenizer, task="classification", max_length=20, labels=("x",))
    rows = [tokenizer("a").input_ids, tokenizer("b", "c").input_ids]
    assert [result.table.row(i)[0].tolist() for i in range(2)] == rows


def test_own_settings_of_the_tokenizer_file_are_not_taken_over():
    """MiniLM's file says to cut at 128 and to pad; neither may happen to the data, nor the tokenizer be changed."""
    tokenizer = tiny_tokenizer.build("encoder")
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    result = tokenise([Labelled("a longer text", "a")], tokenizer, task="classification", max_length=64, labels=("a",))
    assert result.table.lengths.tolist() == [15]
    assert tokenizer.backend_tokenizer.truncation is not None


def test_texts_end_with_eos_and_all_but_the_first_token_is_learnt():
    tokenizer = tiny_tokenizer.build("plain")
    result = tokenise([Text("abc"), Text("d")], tokenizer, task="text", max_length=64)
    ids, labels = result.table.row(0)
    assert tokenizer.decode(ids) == "abc<|im_end|>"
    assert labels.tolist() == [IGNORED, *ids[1:].tolist()]
    assert result.table.lengths.tolist() == [4, 2]


def test_long_texts_are_read_in_windows_and_nothing_is_lost():
    tokenizer = tiny_tokenizer.build("plain")
    text = "".join(chr(97 + i % 26) for i in range(99))
    result = tokenise([Text("ab"), Text(text)], tokenizer, task="text", max_length=32)
    assert result.table.lengths.tolist() == [3, 25, 25, 25, 25]
    assert tokenizer.decode(result.table.input_ids) == f"ab<|im_end|>{text}<|im_end|>"
    assert result.kept.tolist() == [0, 1, 1, 1, 1]
    assert result.table.num_labelled == 103 - 5
    assert result.notes == ["1 texts longer than 32 tokens are read in several windows; nothing is cut"]


def test_very_long_texts_are_tokenised_in_parts(monkeypatch):
    tokenizer = tiny_tokenizer.build("plain")
    text = "word and word\n" * 50
    whole = tokenise([Text(text)], tokenizer, task="text", max_length=5000).table.input_ids
    monkeypatch.setattr(module, "MAX_CHARACTERS", 100)
    assert np.array_equal(tokenise([Text(text)], tokenizer, task="text", max_length=5000).table.input_ids, whole)


def test_pairs_of_source_and_target():
    tokenizer = tiny_tokenizer.build("seq2seq")
    examples = [SourceTarget("abc", "d"), SourceTarget("e" * 30, "f" * 30)]
    result = tokenise(examples, tokenizer, task="seq2seq", max_length=16)
    source, target = result.table.row(0)
    assert source.tolist() == tokenizer("abc").input_ids
    assert tokenizer.decode(target) == "d<|im_end|>"
    assert result.table.lengths.tolist() == [4, 16]
    assert (result.num_cut_texts, result.num_cut_answers, result.wanted_length) == (1, 1, 31)


@pytest.mark.parametrize("task", ["classification", "text", "seq2seq", "chat"])
def test_no_examples(task):
    assert len(tokenise([], tiny_tokenizer.build("chat"), task=task, max_length=16).table) == 0
