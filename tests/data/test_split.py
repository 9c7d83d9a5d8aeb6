from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_sentences import VOCABULARY, sentences
from tunesmith.data.columns import ExampleBuilder
from tunesmith.data.examples import Chat, Example, Labelled, Message, Text
from tunesmith.data.near import near_groups
from tunesmith.data.split import Shares, Splits, num_shared
from tunesmith.data.split import split as split_columns
from tunesmith.errors import DataError

TENTH = Shares(validation=0.1, test=0.1)


def split(examples: list[Example], shares: Shares, *, seed: int = 0) -> Splits:
    task = {Chat: "chat", Labelled: "classification", Text: "text"}[type(examples[0])]
    builder = ExampleBuilder(task)  # type: ignore[arg-type]
    for example in examples:
        builder.add(example)
    return split_columns(builder.build(), shares, seed=seed)


def replaced(text: str, count: int, seed: int) -> str:
    generator = random.Random(seed)
    words = text.split()
    for place in generator.sample(range(len(words)), count):
        words[place] = generator.choice(VOCABULARY)
    return " ".join(words)


@pytest.mark.parametrize(
    "other",
    [
        "A RIDE OF A MOVIE, KEEPS THROWING FASTBALLS AT YOU",
        "... a ride of a movie -- keeps throwing 'fastballs' at you!",
        "A ride of a movie keeps throwing fastballs at you",
        "a ríde of a movie keeps\nthrowing  fastballs at you…",
    ],
)
def test_case_and_punctuation_make_no_difference(other):
    groups, hashes = near_groups(["A ride of a movie, keeps throwing fastballs at you.", other, "Something else"])
    assert groups[0] == groups[1] != groups[2]
    assert hashes[0] == hashes[1] != hashes[2]


def test_digits_and_apostrophes_are_folded():
    groups, _ = near_groups(["It's 12 o'clock", "its 3 oclock", "It’s 100 o’clock", "it was noon"])
    assert groups.tolist() == [groups[0]] * 3 + [groups[3]] != [groups[0]] * 4


def test_few_other_words_are_found_and_strangers_are_not():
    texts = sentences(300)
    near = (
        texts + [replaced(text, 1, i) for i, text in enumerate(texts)] + [replaced(text, 2, i) for i, text in enumerate(texts)]
    )
    groups, _ = near_groups(near)
    assert (groups[:300] == groups[300:600]).mean() > 0.97
    assert (groups[:300] == groups[600:]).mean() > 0.85
    assert len(np.unique(groups[:300])) == 300


def test_texts_without_words():
    groups, _ = near_groups(["", "!!!", "", "...", "a", "A."])
    assert groups[0] == groups[2]
    assert groups[4] == groups[5]
    assert len({*groups.tolist()}) >= 3


@given(st.lists(st.text(max_size=20), max_size=30))
@settings(deadline=None)
def test_any_texts_are_grouped_whatever_their_order(texts):
    groups, hashes = near_groups(texts)
    backward, backward_hashes = near_groups(texts[::-1])
    assert (hashes == backward_hashes[::-1]).all()
    same = groups[:, None] == groups[None, :]
    assert (same == (backward[::-1][:, None] == backward[::-1][None, :])).all()


def labelled(count: int) -> list[Labelled]:
    return [Labelled(text, "rare" if i % 10 == 0 else "common") for i, text in enumerate(sentences(count))]


def test_shares_and_strata():
    examples = labelled(1000)
    parts = split(examples, TENTH)
    assert [len(parts.train), len(parts.validation), len(parts.test)] == [800, 100, 100]
    assert sorted(np.concatenate([parts.train, parts.validation, parts.test]).tolist()) == list(range(1000))
    for part in (parts.validation, parts.test):
        assert sum(examples[i].label == "rare" for i in part) == 10


def test_order_of_rows_makes_no_difference_and_the_seed_does():
    examples = labelled(500)
    shuffled = random.Random(1).sample(examples, 500)
    held_out = {examples[i].text for i in split(examples, TENTH).test}
    assert held_out == {shuffled[i].text for i in split(shuffled, TENTH).test}
    other = {examples[i].text for i in split(examples, TENTH, seed=1).test}
    assert len(held_out & other) < 30


def test_a_new_row_moves_few_others():
    examples = labelled(500)
    before = {examples[i].text for i in split(examples, TENTH).test}
    more = [*examples, Labelled("one more sentence of words", "common")]
    after = {more[i].text for i in split(more, TENTH).test}
    assert len(before ^ after) <= 4


def test_near_identical_rows_never_straddle():
    texts = sentences(400)
    variants = [text.upper() + "!" for text in texts[:100]] + [replaced(text, 1, 5) for text in texts[100:200]]
    examples = [Labelled(text, "ab"[i % 2]) for i, text in enumerate([*texts, *variants])]
    groups, _ = near_groups([example.text for example in examples])
    parts = split(examples, TENTH)
    where = np.empty(len(examples), dtype=int)
    for code, part in enumerate((parts.train, parts.validation, parts.test)):
        where[part] = code
    assert all(len(np.unique(where[groups == group])) == 1 for group in np.unique(groups))
    assert parts.num_near >= 390
    assert min(len(parts.validation), len(parts.test)) >= 40


def test_questions_decide_for_conversations():
    def chat(question: str, answer: str) -> Chat:
        return Chat((Message("user", question), Message("assistant", answer)))

    texts = sentences(100)
    examples = [chat(text, f"answer {i}") for i in range(2) for text in texts]
    parts = split(examples, Shares(validation=0.05, test=0.05))
    assert {i % 100 for i in parts.test} & {i % 100 for i in parts.train} == set()
    assert len(parts.test) == 10


def test_cap():
    examples = [Text(text) for text in sentences(1000)]
    parts = split(examples, Shares(validation=0.05, test=0.05, most=7))
    assert (len(parts.validation), len(parts.test)) == (7, 7)


def test_one_template_for_all_rows_can_be_split_all_the_same():
    examples = [Text(f"What is {i} plus {i * 7 % 100}?") for i in range(300)]
    parts = split(examples, TENTH)
    assert parts.group_was_cut
    assert len(parts.test) == 30


@pytest.mark.parametrize("count", [3, 4, 5, 10])
def test_few_rows(count):
    parts = split([Text(text) for text in sentences(count)], Shares(validation=0.05, test=0.05))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (count - 2, 1, 1)


@pytest.mark.parametrize("texts", [["a"], ["a", "b"], ["same words here"] * 9])
def test_too_few_rows(texts):
    with pytest.raises(DataError, match="too few to hold some out"):
        split([Text(text) for text in texts], TENTH)


def test_nothing_held_out_when_nothing_is_asked_for():
    parts = split([Text("a"), Text("b")], Shares(validation=0, test=0))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (2, 0, 0)


def test_num_shared():
    texts = sentences(20)
    train = [Labelled(text, "x") for text in texts]
    assert num_shared([Labelled(texts[3].upper(), "x"), Labelled("new", "x")], train) == 1
