import pytest

from benchmarks import rows, workload


def render(prompt: str, answer: str | None) -> str:
    return f"<{prompt}>" if answer is None else f"<{prompt}>{answer}!\n"


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def test_only_the_answer_and_its_end_carry_loss():
    example: rows.Instruction = {"instruction": "a", "input": "b", "output": "yes"}
    found = rows.answered(example, render, encode)
    assert bytes(found["input_ids"]).decode() == "<a\n\nb>yes!"
    assert found["labels"] == [workload.IGNORED] * 6 + encode("yes!")


def test_merged_tokens_at_the_border_are_refused():
    example: rows.Instruction = {"instruction": "a", "input": "", "output": "yes"}
    with pytest.raises(ValueError, match="merges"):
        rows.answered(example, render, lambda text: encode(text.replace(">y", "_")))


def test_a_class_is_its_number():
    assert rows.classified({"text": "hi", "label": "positive"}, encode) == {"input_ids": encode("hi"), "labels": [1]}
