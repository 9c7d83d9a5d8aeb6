"""The loss mask of conversations: decoded, it is the answers with their end-of-turn tokens, and nothing else."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chat_templates as templates
from tunesmith.data.chat_tokens import chat_writer
from tunesmith.data.examples import Chat, Message
from tunesmith.data.table import IGNORED
from tunesmith.data.template import Refusal
from tunesmith.data.tokenise import Tokenised, tokenise


class Family(NamedTuple):
    template: str | None
    eos: str
    end: str
    """What ends an answer and is learnt with it."""
    lead: str = ""
    """What the template puts between the generation prompt and the answer."""
    trims: bool = False


FAMILIES = {
    "chatml": Family(templates.CHATML, "<|im_end|>", "<|im_end|>"),
    "llama3": Family(templates.LLAMA3, "<|eot_id|>", "<|eot_id|>", trims=True),
    "llama3 with another eos": Family(templates.LLAMA3, "</s>", "<|eot_id|>", trims=True),
    "llama2": Family(templates.LLAMA2, "</s>", "</s>", trims=True),
    "gemma": Family(templates.GEMMA, "</s>", "<end_of_turn>", trims=True),
    "marked": Family(templates.MARKED, "<|im_end|>", "<|im_end|>"),
    "none": Family(None, "</s>", "</s>"),
}
SINGLE = (Message("user", "What is the inn?"), Message("assistant", "A thin tin."))
MULTI = (*SINGLE, Message("user", "And\n\nthen?"), Message("assistant", "Nothing → ☃ at all."))
SYSTEM = (Message("system", "Be the best."), *MULTI)


def prepare(family: Family, *conversations: tuple[Message, ...], max_length: int = 4096) -> tuple[Tokenised, list[list[str]]]:
    """The table, and for each row its decoded loss spans."""
    tokenizer = templates.tokenizer(family.template, eos=family.eos)
    result = tokenise([Chat(c) for c in conversations], tokenizer, task="chat", max_length=max_length)
    return result, [spans(tokenizer, *result.table.row(row)) for row in range(len(result.table))]


def spans(tokenizer, ids, labels) -> list[str]:
    labelled = np.flatnonzero(labels != IGNORED)
    assert (labels[labelled] == ids[labelled]).all()
    runs = np.split(labelled, np.flatnonzero(np.diff(labelled) > 1) + 1) if len(labelled) else []
    return [tokenizer.decode(ids[run], skip_special_tokens=False) for run in runs]


def expected(family: Family, messages: tuple[Message, ...]) -> list[str]:
    answers = [m.content.strip() if family.trims else m.content for m in messages if m.role == "assistant"]
    # Llama 2 writes a space before the answer; it is the template's, before the answer.
    return [answer + family.end for answer in answers]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("messages", [SINGLE, MULTI, SYSTEM], ids=["single", "multi", "system"])
def test_loss_is_on_answers_and_their_ends(name, messages):
    result, decoded = prepare(FAMILIES[name], messages)
    assert result.refused == {}
    assert [span.lstrip(" ") for span in decoded[0]] == expected(FAMILIES[name], messages)


@pytest.mark.parametrize("name", FAMILIES)
def test_white_space_at_the_edges_of_contents(name):
    messages = (Message("user", "  a?\n"), Message("assistant", " \n x y \n\n"))
    _, decoded = prepare(FAMILIES[name], messages)
    want = expected(FAMILIES[name], messages)
    assert [span.lstrip(" ") for span in decoded[0]] == [span.lstrip(" ") for span in want]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("none",)])
@pytest.mark.parametrize("messages", [SINGLE, MULTI, (Message("user", "a"), Message("assistant", " b "))])
def test_rows_are_what_transformers_renders(name, messages):
    family = FAMILIES[name]
    tokenizer = templates.tokenizer(family.template, eos=family.eos)
    result, _ = prepare(family, messages)
    plain = [{"role": m.role, "content": m.content} for m in messages]
    whole = tokenizer.apply_chat_template(plain, tokenize=False)
    row = result.table.row(0)[0].tolist()
    text = tokenizer.decode(row)
    assert whole.startswith(text)
    assert whole[len(text) :].strip() == ""
    if not name.startswith("llama3"):  # with this tokenizer its prompt ends in the middle of a token
        assert row == tokenizer(whole, add_special_tokens=False).input_ids[: len(row)]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("messages", [SINGLE, SYSTEM])
def test_generation_prompt_is_a_prefix_of_the_row(name, messages):
    """What the model reads before it answers is, token by token, what it was trained to answer after."""
    family = FAMILIES[name]
    tokenizer = templates.tokenizer(family.template, eos=family.eos)
    template, writer = chat_writer(tokenizer)
    with template:
        prompt = writer.prompt(messages[:-1])
    assert isinstance(prompt, str)
    ids, labels = prepare(family, messages)[0].table.row(0)
    prefix = tokenizer(prompt, add_special_tokens=False).input_ids
    assert ids[: len(prefix)].tolist() == prefix
    last_span = np.flatnonzero(np.diff(labels == IGNORED))[-1] + 1
    assert len(prefix) == last_span


def test_bos_is_not_doubled():
    result, _ = prepare(FAMILIES["llama3"], SINGLE)
    assert result.table.row(0)[0].tolist().count(0) == 1


def test_system_turn_goes_to_the_first_question_where_the_template_has_no_place_for_it():
    result, decoded = prepare(FAMILIES["gemma"], SYSTEM)
    text = templates.tokenizer(templates.GEMMA).decode(result.table.row(0)[0])
    assert "<start_of_turn>user\nBe the best.\n\nWhat is the inn?<end_of_turn>" in text
    assert decoded[0] == expected(FAMILIES["gemma"], SYSTEM)
    assert any("no place for a system turn" in note for note in result.notes)


def test_template_without_an_end_gets_eos_on_the_last_answer():
    result, decoded = prepare(Family(templates.NO_END, "</s>", "</s>"), MULTI)
    assert [span.lstrip() for span in decoded[0]] == ["A thin tin.", "Nothing → ☃ at all.</s>"]
    assert any("does not end an answer" in note for note in result.notes)


def test_empty_thought_is_learnt_because_the_model_must_write_it():
    _, decoded = prepare(Family(templates.THINKING, "<|im_end|>", ""), MULTI)
    assert decoded[0] == ["A thin tin.<|im_end|>", "<think>\n\n</think>\n\nNothing → ☃ at all.<|im_end|>"]


def test_thoughts_in_answers():
    first = Message("assistant", "<think>\nwhy\n</think>\n\nBecause")
    _, decoded = prepare(Family(templates.THINKING, "<|im_end|>", ""), (SINGLE[0], first), (SINGLE[0], first, *SINGLE))
    assert decoded[0] == ["<think>\nwhy\n</think>\n\nBecause<|im_end|>"]
    assert decoded[1] == ["Because<|im_end|>", "<think>\n\n</think>\n\nA thin tin.<|im_end|>"]


def test_template_that_depends_on_the_content_in_a_way_that_no_one_foresaw():
    source = templates.CHATML.replace("message['content'] +", "(message['content'] | upper) +")
    _, decoded = prepare(Family(source, "<|im_end|>", ""), SINGLE)
    assert decoded == [["A THIN TIN.<|im_end|>"]], "the model must be trained on what the template writes"


def test_row_that_the_template_refuses_is_left_out_with_its_reason():
    twice = (SINGLE[0], SINGLE[0], SINGLE[1])
    result, decoded = prepare(FAMILIES["llama2"], twice, SINGLE)
    assert result.refused == {0: "roles must alternate"}
    assert result.kept.tolist() == [1]
    assert len(decoded) == 1


def test_token_across_the_border_is_taken_apart():
    """Where the prompt's last line end and the answer's first would be one token, the prompt stays as it is at inference."""
    tokenizer = templates.tokenizer(templates.CHATML, merge_over_lines=True)
    messages = (Message("user", "a"), Message("assistant", "\nab"))
    ids, labels = tokenise([Chat(messages)], tokenizer, task="chat", max_length=99).table.row(0)
    assert spans(tokenizer, ids, labels) == ["\nab<|im_end|>"]
    prompt = tokenizer("<|im_start|>system\nYou are helpful<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n")
    assert ids[: len(prompt.input_ids)].tolist() == prompt.input_ids


def test_special_tokens_in_the_data_are_counted():
    result, _ = prepare(FAMILIES["chatml"], SINGLE, (Message("user", "say <|im_end|>"), SINGLE[1]))
    assert any(note.startswith("1 conversations contain") for note in result.notes)


def test_answers_that_are_cut_are_counted():
    long = (SINGLE[0], Message("assistant", "x" * 100))
    prompt_length = len(prepare(FAMILIES["llama3"], SINGLE)[0].table.row(0)[0]) - len("A thin tin.")
    result, decoded = prepare(FAMILIES["llama3"], SINGLE, long, max_length=prompt_length + 20)
    assert result.num_cut_answers == 1
    assert set(decoded[1][0]) == {"x"}
    assert result.table.lengths.max() == prompt_length + 20


def test_row_of_which_only_the_prompt_fits_is_left_out():
    result, decoded = prepare(FAMILIES["llama3"], SINGLE, (Message("user", "q" * 500), SINGLE[1]), max_length=200)
    assert result.refused == {1: "the prompt alone fills the 200 tokens of a row"}
    assert len(decoded) == 1
    assert result.num_cut_answers == 1


def test_wanted_length_is_of_uncut_rows():
    result, _ = prepare(FAMILIES["llama3"], (SINGLE[0], Message("assistant", "x" * 300)), max_length=250)
    assert result.wanted_length > 300


contents = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs", "Co"]), min_size=1, max_size=30
)


turns = st.lists(st.tuples(contents, contents.filter(str.strip)), min_size=1, max_size=3)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(turns, min_size=1, max_size=20), st.sampled_from(["chatml", "llama3", "none"]))
def test_any_text_is_learnt_exactly(conversations, name):
    family = FAMILIES[name]
    messages = [
        tuple(message for user, answer in item for message in (Message("user", user), Message("assistant", answer)))
        for item in conversations
    ]
    result, decoded = prepare(family, *messages)
    assert result.refused == {}
    assert ["".join(row) for row in decoded] == ["".join(expected(family, item)) for item in messages]


def test_refusals_do_not_disturb_the_order():
    tokenizer = templates.tokenizer(templates.LLAMA2, eos="</s>")
    template, writer = chat_writer(tokenizer)
    good = [Chat((Message("user", f"q{i}"), Message("assistant", f"a{i}" + " " * (i % 2)))) for i in range(30)]
    bad = Chat((SINGLE[0], SINGLE[0], SINGLE[1]))
    with template:
        written = writer.write([good[0], bad, *good[1:]])
    assert isinstance(written[1], Refusal)
    texts = [item.text for item in written if not isinstance(item, Refusal)]
    assert texts == [f"<s>[INST] q{i} [/INST] a{i}</s>" for i in range(30)]
