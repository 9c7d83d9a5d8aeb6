import numpy as np
import pytest

from tunesmith.data.convert import convert
from tunesmith.data.examples import Chat, Labelled, Message, SourceTarget, Text
from tunesmith.data.raw import RawTable, Skipped
from tunesmith.data.recognise import ColumnChoice, recognise
from tunesmith.errors import DataError


def table(*rows: dict[str, object], repeat: int = 1) -> RawTable:
    names = dict.fromkeys(name for row in rows for name in row)
    values: dict[str, list[object]] = {name: [row.get(name) for row in rows] * repeat for name in names}
    return RawTable(values=values, numbers=np.arange(1, len(rows) * repeat + 1), files=[("a.jsonl", 0)], name="a.jsonl")


def chat(*turns: str) -> Chat:
    return Chat(tuple(Message("user" if i % 2 == 0 else "assistant", turn) for i, turn in enumerate(turns)))


ROLE = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
FROM = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]

CASES = [
    ({"messages": ROLE, "source": "x"}, "messages", "chat", chat("q", "a")),
    ({"conversations": ROLE}, "messages", "chat", chat("q", "a")),
    ({"messages": str(ROLE).replace("'", '"')}, "messages", "chat", chat("q", "a")),
    ({"id": 1, "conversations": FROM}, "conversations", "chat", chat("q", "a")),
    ({"instruction": "i", "input": "x", "output": "o"}, "instruction/input/output", "chat", chat("i\n\nx", "o")),
    ({"instruction": "i", "input": "", "output": "o"}, "instruction/input/output", "chat", chat("i", "o")),
    ({"instruction": "i", "context": None, "response": "o", "topic": "c"}, "instruction/input/output", "chat", chat("i", "o")),
    ({"instruction": "i", "output": "o"}, "prompt/completion", "chat", chat("i", "o")),
    ({"prompt": "p", "completion": "c"}, "prompt/completion", "chat", chat("p", "c")),
    ({"prompt": ROLE[:1], "completion": ROLE[1:]}, "prompt/completion", "chat", chat("q", "a")),
    ({"question": "q", "context": "c", "answer": "a"}, "prompt/completion", "chat", chat("q\n\nc", "a")),
    ({"input": "q", "output": "a"}, "prompt/completion", "chat", chat("q", "a")),
    ({"question": "q", "answer": 42}, "prompt/completion", "chat", chat("q", "42")),
    ({"Question": "q", "Answer": "a"}, "prompt/completion", "chat", chat("q", "a")),
    ({"text": "t", "label": 1}, "text+label", "classification", Labelled("t", "1")),
    ({"sentence": "t", "label": True, "idx": 0}, "text+label", "classification", Labelled("t", "true")),
    ({"review": "t", "sentiment": "positive"}, "text+label", "classification", Labelled("t", "positive")),
    ({"premise": "a", "hypothesis": "b", "label": 0}, "text pair+label", "classification", Labelled("a", "0", "b")),
    ({"sentence1": "a", "sentence2": "b", "label": 2.0}, "text pair+label", "classification", Labelled("a", "2", "b")),
    ({"source": "s", "target": "t"}, "source/target", "chat", chat("s", "t")),
    ({"text": "t", "meta": {}}, "text", "text", Text("t")),
]  # fmt: skip


@pytest.mark.parametrize(("row", "name", "task", "example"), CASES)
def test_shapes(row, name, task, example):
    raw = table(row, row)
    shape = recognise(raw)
    assert (shape.name, shape.task) == (name, task)
    converted = convert(raw, shape)
    assert list(converted.examples) == [example, example]
    assert converted.origins.tolist() == [1, 2]


def test_a_file_without_a_header_is_noticed():
    values = {"a fine film": [f"film {i} here" for i in range(20)], "good": ["good", "bad"] * 10}
    raw = RawTable(values=values, numbers=np.arange(1, 21), files=[("a.csv", 0)], name="a.csv", kind="csv")
    recognise(raw)
    assert any("no header" in note and "'good'" in note for note in raw.notes)


def test_messages_without_roles_are_explained():
    with pytest.raises(DataError, match=r"`messages` holds no list of objects with 'role' and 'content'"):
        recognise(table({"messages": ["hi", "there"]}, repeat=5))


def test_system_prompt_comes_first():
    raw = table({"system": "s", "instruction": "i", "input": "", "output": "o"})
    assert list(convert(raw, recognise(raw)).examples) == [
        Chat((Message("system", "s"), Message("user", "i"), Message("assistant", "o")))
    ]


@pytest.mark.parametrize(
    ("row", "task", "example"),
    [
        ({"source": "s", "target": "t"}, "seq2seq", SourceTarget("s", "t")),
        ({"instruction": "i", "input": "x", "output": "o"}, "seq2seq", SourceTarget("i\n\nx", "o")),
        ({"text": "t", "label": "x"}, "text", Text("t")),
        ({"text": "t", "label": "x", "prompt": "p", "answer": "a"}, "chat", chat("p", "a")),
        ({"text": "t", "label": "x", "prompt": "p", "answer": "a"}, "classification", Labelled("t", "x")),
    ],
)
def test_task_chooses_among_shapes(row, task, example):
    raw = table(row)
    assert list(convert(raw, recognise(raw, task)).examples) == [example]


@pytest.mark.parametrize(
    ("row", "choice", "name", "example"),
    [
        ({"a": "t", "b": 3}, ColumnChoice(text="a", label="b"), "text+label", Labelled("t", "3")),
        ({"a": "t", "b": 3, "c": "u"}, ColumnChoice(text="a", label="b", pair="c"), "text pair+label", Labelled("t", "3", "u")),
        ({"x": "p", "y": "a"}, ColumnChoice(prompt="x", answer="y"), "prompt/completion", chat("p", "a")),
        (
            {"instruction": "i", "input": "n", "output": "o", "better": "b"},
            ColumnChoice(answer="better"),
            "instruction/input/output",
            chat("i\n\nn", "b"),
        ),
        ({"query": "q", "context": "c", "answer": "a"}, ColumnChoice(prompt="query"), "prompt/completion", chat("q", "a")),
        ({"body": "t", "title": "x"}, ColumnChoice(text="title"), "text", Text("x")),
        ({"text": "t", "label": "wrong", "gold": "right"}, ColumnChoice(label="gold"), "text+label", Labelled("t", "right")),
    ],
)  # fmt: skip
def test_named_columns_overrule(row, choice, name, example):
    raw = table(row)
    shape = recognise(raw, columns=choice)
    assert shape.name == name
    assert list(convert(raw, shape).examples) == [example]


def test_columns_without_usual_names_are_recognised_by_content():
    rows = [
        {"snippet text": f"a film number {i} of many", "verdict": "good" if i % 2 else "bad", "n": i / 7} for i in range(40)
    ]
    shape = recognise(table(*rows))
    assert shape.columns == {"text": "snippet text", "label": "verdict"}


def test_said_aloud():
    assert recognise(table({"instruction": "", "input": "", "output": ""})).say() == "training on `output`"
    assert recognise(table({"text": "", "label": ""})).say() == "learning `label` from `text`"
    assert (
        recognise(table({"premise": "", "hypothesis": "", "label": ""})).say()
        == "learning `label` from `premise` with `hypothesis`"
    )
    squad = table({"question": "", "context": "", "answer": ""})
    assert recognise(squad).say() == "training on `answer` after `question` and `context`"
    assert recognise(table({"messages": ROLE})).say() == "training on the assistant's turns"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, ["'foo', 'bar'", "--prompt-column", "--label-column"]),
        ({"task": "classification"}, ["the task classification"]),
        ({"shape": "text+labels"}, ["Unknown shape 'text+labels'", "Did you mean 'text+label'"]),
        ({"shape": "messages"}, ["the shape messages"]),
        ({"columns": ColumnChoice(text="fo")}, ["--text-column", "no column 'fo'", "Did you mean 'foo'", "foo, bar"]),
        ({"columns": ColumnChoice(text="foo", answer="bar")}, ["--answer-column, --text-column together"]),
    ],
)
def test_not_recognised(arguments, words):
    with pytest.raises(DataError) as caught:
        recognise(table({"foo": 1, "bar": 2}), **arguments)
    for word in words:
        assert word in str(caught.value)


def test_shape_of_another_task():
    with pytest.raises(DataError, match=r"are text, which is for the task text, not chat"):
        recognise(table({"text": "x"}), "chat", shape="text")


BAD_CHAT = [
    ({"instruction": "i", "input": "", "output": " \n"}, "empty answer"),
    ({"instruction": "i", "input": "", "output": None}, "empty answer"),
    ({"instruction": "", "input": "", "output": "o"}, "empty prompt"),
    ({"instruction": "i", "input": "", "output": ["x"]}, "a message is text, not an object with role and content"),
    ({"instruction": "i", "input": "", "output": {"a": 1}}, "answer is not text but an object"),
    ({"instruction": "i\0", "input": "", "output": "o"}, "prompt holds a NUL character"),
    ({"instruction": "i", "input": "", "output": "o\ud800"}, "half a character"),
]
BAD_MESSAGES = [
    ([], "no turn of the assistant"),
    (ROLE[:1], "no turn of the assistant"),
    (ROLE[1:], "nothing before the answer"),
    ([{"role": "king", "content": "x"}], "unknown role 'king'"),
    ([{"content": "x"}], "a message without a role"),
    ([*ROLE, {"role": "system", "content": "x"}, *ROLE], "a system turn inside the conversation"),
    ([ROLE[0], {"role": "assistant", "content": None, "tool_calls": [1]}], "tool calls"),
    ([ROLE[0], {"role": "assistant", "content": [{"type": "image"}]}], "a picture?"),
    ([{"role": "user", "content": ""}, ROLE[1]], "empty prompt"),
    ("no json", "the messages are text, not a list"),
    (7, "the messages are a int, not a list"),
    (None, "no messages"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_CHAT)
def test_bad_prompts_and_answers(row, reason):
    raw = table({"instruction": "i", "input": "", "output": "o"}, row)
    converted = convert(raw, recognise(raw))
    assert converted.origins.tolist() == [1]
    assert converted.skipped[0].row == 2
    assert reason in converted.skipped[0].reason


@pytest.mark.parametrize(("messages", "reason"), BAD_MESSAGES)
def test_bad_messages(messages, reason):
    raw = table({"messages": ROLE}, {"messages": messages})
    converted = convert(raw, recognise(raw))
    assert list(converted.examples) == [chat("q", "a")]
    assert reason in converted.skipped[0].reason


def test_turns_behind_the_last_answer_are_left_away_and_parts_joined():
    parts = [{"role": "human", "content": [{"type": "text", "text": "q"}, "2"]}, ROLE[1], ROLE[0]]
    raw = table({"messages": parts})
    assert list(convert(raw, recognise(raw)).examples) == [chat("q2", "a")]


BAD_LABELS = [
    (None, "no label"),
    ("", "empty label"),
    (0.5, "fraction 0.5"),
    ([1], "a list, not a class"),
    (float("nan"), "nan"),
]


@pytest.mark.parametrize(("label", "reason"), BAD_LABELS)
def test_bad_labels(label, reason):
    raw = table({"text": "t", "label": 1}, {"text": "t", "label": label})
    assert reason in convert(raw, recognise(raw)).skipped[0].reason


def test_broken_rows_are_among_the_skipped_in_order():
    raw = table({"text": "t"}, {"text": " "})
    raw.numbers = np.array([1, 3])
    raw.broken.append(Skipped(2, "broken JSON"))
    assert [(item.row, item.reason) for item in convert(raw, recognise(raw)).skipped] == [(2, "broken JSON"), (3, "empty text")]
