from __future__ import annotations

import dataclasses
import io
import json

import pytest

from tunesmith.data.examples import Message
from tunesmith.errors import DataError
from tunesmith.evaluation.generate import Generation
from tunesmith.evaluation.sampling import Sampling
from tunesmith.runs.answers import Written


class Parrot:
    """Answers with the number of messages and the last of them, piece by piece."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Message], Generation]] = []

    def chat(self, messages, settings):
        if len(messages[-1].content) > 20:
            raise DataError("Prompt 1 has 21 tokens. Shorten the prompt.")
        self.asked.append((list(messages), settings))
        return self.pieces(messages)

    def pieces(self, messages):
        yield f"{len(messages)} "
        if messages[-1].content == "stop":
            raise KeyboardInterrupt
        yield messages[-1].content
        return messages[-1].content != "talk"

    def answers(self, texts, settings):
        if texts == ["stop"]:
            raise KeyboardInterrupt
        return [Written(f"label of {text}", ended=text != "talk") for text in texts]


@pytest.fixture
def parrot(engine, saved_run) -> Parrot:
    bird = Parrot()
    engine("predict", load=lambda folder, watch: bird)
    return bird


@pytest.fixture
def chat_run(saved_run, tmp_path):
    saved_run.task = "chat"
    saved_run.save(tmp_path / "runs" / "first")


def test_one_prompt(tunesmith_run, parrot, chat_run):
    outcome = tunesmith_run("chat", "first", "--prompt", "hello", "--max-new-tokens", "7")
    assert (outcome.code, outcome.out) == (0, "1 hello\n")
    assert parrot.asked == [([Message("user", "hello")], Generation(max_new_tokens=7))], "greedy"


def test_drawing(tunesmith_run, parrot, chat_run):
    words = ("--prompt", "hello", "--temperature", "0.7", "--top-p", "0.9", "--seed", "5")
    assert tunesmith_run("chat", "first", *words).code == 0
    assert parrot.asked[0][1].sampling == Sampling(temperature=0.7, top_p=0.9, seed=5)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--temperature", "-1", "temperature must be 0 or a positive number, got -1.0."),
        ("--temperature", "nan", "temperature must be 0 or a positive number, got nan."),
        ("--top-p", "0", "top_p must be above 0 and at most 1, got 0.0."),
        ("--seed", "-1", "seed must be at least 0"),
        ("--max-new-tokens", "0", "--max-new-tokens must be at least 1, found 0."),
    ],
)
def test_numbers_out_of_range(tunesmith_run, parrot, chat_run, flag, value, message):
    outcome = tunesmith_run("chat", "first", "--prompt", "x", f"{flag}={value}")
    assert outcome.code == 2
    assert message in outcome.err


def test_json(tunesmith_run, parrot, chat_run):
    outcome = tunesmith_run("chat", "first", "--prompt", "hello", "--json", "--system", "be kind")
    assert json.loads(outcome.out) == {"run": "runs/first", "prompt": "hello", "answer": "2 hello", "cut_off": False}
    assert parrot.asked[0][0][0] == Message("system", "be kind")


def test_an_answer_that_ran_into_the_limit_says_so(tunesmith_run, parrot, chat_run, monkeypatch):
    outcome = tunesmith_run("chat", "first", "--prompt", "talk", "--max-new-tokens", "7")
    assert outcome.out == "1 talk\n"
    assert "The answer was cut off: it reached --max-new-tokens 7" in outcome.err
    assert "--max-new-tokens 14 leaves it more room" in outcome.err
    assert "cut off" not in tunesmith_run("chat", "first", "--prompt", "hello").err
    assert json.loads(tunesmith_run("chat", "first", "--prompt", "talk", "--json").out)["cut_off"] is True
    monkeypatch.setattr("sys.stdin", io.StringIO("talk\nstop\nhello\n"))
    assert tunesmith_run("chat", "first").err.count("cut off") == 1


def test_a_classifier_answers_with_the_label(tunesmith_run, parrot):
    assert tunesmith_run("chat", "first", "--prompt", "hello").out == "label of hello\n"


def test_a_conversation(tunesmith_run, parrot, chat_run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\nstop\n/new\nthree\n/exit\nfour\n"))
    outcome = tunesmith_run("chat", "first", "--quiet")
    assert outcome.code == 0
    assert outcome.out == "1 one\n3 two\n5  [stopped]\n1 three\n"
    assert parrot.asked[1][0][1] == Message("assistant", "1 one")


def test_what_was_stopped_is_remembered_as_the_model_wrote_it(tunesmith_run, parrot, chat_run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("stop\nhello\n"))
    assert tunesmith_run("chat", "first").out == "1  [stopped]\n3 hello\n"
    assert parrot.asked[1][0] == [Message("user", "stop"), Message("assistant", "1 "), Message("user", "hello")]


def test_a_message_that_does_not_fit_does_not_end_the_conversation(tunesmith_run, parrot, chat_run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n" + "long " * 5 + "\ntwo\n"))
    outcome = tunesmith_run("chat", "first", "--quiet")
    assert (outcome.code, outcome.out) == (0, "1 one\n3 two\n")
    assert "Shorten the prompt. Your message was taken back; /new starts a new conversation." in " ".join(outcome.err.split())
    assert [message.content for message in parrot.asked[-1][0]] == ["one", "1 one", "two"]


def test_an_answer_in_one_piece_can_be_stopped_too(tunesmith_run, parrot, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("stop\nhello\n"))
    outcome = tunesmith_run("chat", "first")
    assert (outcome.code, outcome.out) == (0, " [stopped]\nlabel of hello\n")


def test_one_prompt_that_is_stopped_has_no_answer(tunesmith_run, parrot, chat_run):
    outcome = tunesmith_run("chat", "first", "--prompt", "stop", "--json")
    assert outcome.code == 130
    assert json.loads(outcome.out) == {"error": "Interrupted.", "exit_code": 130}


def test_the_end_of_input_leaves(tunesmith_run, parrot, chat_run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n"))
    assert tunesmith_run("chat", "first").code == 0


def test_answers_cannot_steer_the_terminal(tunesmith_run, parrot, chat_run):
    assert tunesmith_run("chat", "first", "--prompt", "a\x1b[2J\x07b\u009b").out == "1 a�[2J�b�\n"


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("chat", ("--top-p", "0.9"), "--top-p says how words are drawn, and none are without --temperature"),
        ("chat", ("--seed", "5"), "--seed says how words are drawn"),
        ("text", ("--system", "be kind"), "was tuned for text, which knows no instructions"),
        ("classification", ("--system", "be kind"), "was tuned for classification, which knows no instructions"),
    ],
)
def test_flags_without_effect(tunesmith_run, parrot, saved_run, tmp_path, task, flags, message):
    dataclasses.replace(saved_run, task=task).save(tmp_path / "runs" / "first")
    outcome = tunesmith_run("chat", "first", "--prompt", "x", *flags)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())


def test_pairs_are_refused_before_anything_is_loaded(tunesmith_run, parrot, saved_run, tmp_path):
    data = dataclasses.replace(saved_run.data, shape="text pair+label")
    dataclasses.replace(saved_run, data=data).save(tmp_path / "runs" / "first")
    outcome = tunesmith_run("chat", "first")
    assert outcome.code == 2
    assert "tunesmith.load('runs/first').predict([(first, second)])" in outcome.err
    assert "loading" not in outcome.err


def test_wrong_usage(tunesmith_run, parrot):
    assert tunesmith_run("chat", "first", "--json").code == 2
    assert "there is nothing to draw" in tunesmith_run("chat", "first", "--prompt", "x", "--temperature", "1").err
