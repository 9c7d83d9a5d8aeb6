"""Examples in columns are the examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.columns import ChosenExamples, ExampleBuilder, ExampleColumns
from tunesmith.data.examples import Chat, Example, Labelled, Message, SourceTarget, Task, Text

WORDS = st.text(max_size=8)
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), WORDS), min_size=1, max_size=4)
EXAMPLES = {
    "chat": MESSAGES.map(lambda messages: Chat(tuple(messages))),
    "classification": st.builds(Labelled, WORDS, st.sampled_from("abc"), st.one_of(st.none(), WORDS)),
    "text": st.builds(Text, WORDS),
    "seq2seq": st.builds(SourceTarget, WORDS, WORDS),
}


def columns(task: Task, examples: list[Example]) -> ExampleColumns:
    builder = ExampleBuilder(task)
    for example in examples:
        builder.add(example)
    return builder.build()


@pytest.mark.parametrize("task", EXAMPLES)
@given(data=st.data())
def test_what_goes_in_comes_out(task, data):
    examples = data.draw(st.lists(EXAMPLES[task], max_size=9))
    made = columns(task, examples)
    assert list(made) == examples
    assert len(made) == len(examples)
    start, stop = data.draw(st.tuples(st.integers(-10, 10), st.integers(-10, 10)))
    for step in (1, 2, -1):
        assert made[start:stop:step] == examples[start:stop:step]
    if examples:
        assert (made[-1], made[0]) == (examples[-1], examples[0])
        chosen = data.draw(st.lists(st.integers(0, len(examples) - 1)))
        assert list(ChosenExamples(made, np.array(chosen, dtype=np.int64))) == [examples[i] for i in chosen]


def test_beyond_the_end():
    with pytest.raises(IndexError):
        columns("text", [Text("a")])[1]
