"""The whole way from files to token rows: what comes out, what is said, what is warned of, what is refused."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest

import tiny_tokenizer
from data_sentences import sentences
from tunesmith.data.prepare import prepare, prepare_for_evaluation
from tunesmith.data.prepared import PreparedData
from tunesmith.errors import DataError, InputError
from tunesmith.settings import DataSettings

TEXTS = sentences(200, seed=3, words=8)


@pytest.fixture(autouse=True)
def no_row_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(*paths: str, kind: str = "chat", task: str = "auto", known_labels: tuple[str, ...] = (), **settings) -> PreparedData:
    built_for = {"encoder": "encoder", "seq2seq": "encoder-decoder"}.get(kind, "decoder")
    tokenizer, data = tiny_tokenizer.build(kind), DataSettings(data=paths, **settings)  # type: ignore[arg-type]
    return prepare(data, tokenizer, task=task, model_max_length=512, kind=built_for, known_labels=known_labels)


def instructions(count: int) -> list[dict[str, object]]:
    return [{"instruction": text, "input": "", "output": text[::-1]} for text in TEXTS[:count]]


def reviews(count: int) -> list[dict[str, object]]:
    return [{"text": text, "label": ["bad", "good"][i % 2]} for i, text in enumerate(TEXTS[:count])]


def test_instructions(tmp_path):
    rows = instructions(200)
    rows[16]["output"] = rows[102]["output"] = ""
    rows[50]["instruction"] = "\0"
    data = run(write(tmp_path / "a.jsonl", rows))
    assert data.description[0] == (
        "read 200 rows as instruction/input/output; training on `output`; 3 rows skipped: rows 17, 103 empty answer; "
        "row 51 prompt holds a NUL character"
    )
    assert [len(data.train), len(data.validation), len(data.test)] == [177, 10, 10]
    assert data.description[2].startswith("177 to train on, 10 to choose the best checkpoint, 10 to test")
    assert (data.task, data.shape, data.name, data.labels) == ("chat", "instruction/input/output", "a.jsonl", ())
    assert [item.row for item in data.skipped] == [17, 51, 103]
    assert data.template == tiny_tokenizer.CHAT_TEMPLATE
    assert data.warnings == []


def test_rows_examples_and_origins_go_together(tmp_path):
    rows = instructions(60)
    rows[3]["output"] = ""
    data = run(write(tmp_path / "a.jsonl", rows))
    tokenizer = tiny_tokenizer.build("chat")
    for part in (data.train, data.validation, data.test):
        for index, (example, origin) in enumerate(zip(part.examples, part.origins, strict=True)):
            ids, labels = part.tokens.row(index)
            answer = str(rows[origin - 1]["output"])
            assert example.messages[-1].content == answer
            assert tokenizer.decode(labels[labels >= 0]) == answer + "<|im_end|>"
            assert len(ids) > len(answer)


def test_reviews(tmp_path):
    data = run(write(tmp_path / "a.jsonl", reviews(200)), kind="encoder")
    assert data.labels == ("bad", "good")
    assert [len(data.train), len(data.validation), len(data.test)] == [160, 20, 20]
    assert sorted(data.test.tokens.labels.tolist()) == [0] * 10 + [1] * 10
    assert "2 classes: bad 50.0 %, good 50.0 %" in data.description
    assert data.max_length == 512


def test_labels_are_numbers_in_order(tmp_path):
    rows = [{"text": text, "label": i % 11} for i, text in enumerate(TEXTS)]
    assert run(write(tmp_path / "a.jsonl", rows), kind="encoder").labels == tuple(str(i) for i in range(11))


def test_texts_of_a_folder(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(TEXTS[i] * 20)
    data = run(str(tmp_path), kind="plain", task="text", max_length=128)
    assert data.description[0] == "read 10 rows from 10 files as text; training on `text`"
    assert data.train.tokens.lengths.max() <= 128
    assert len(np.unique(data.train.origins)) == 8
    assert len(np.unique(data.test.origins)) == 1
    assert len(data.test) > 1


def test_eval_file_is_the_test(tmp_path):
    train, test = write(tmp_path / "a.jsonl", reviews(100)), write(tmp_path / "b.jsonl", reviews(200)[90:130])
    data = run(train, kind="encoder", eval=test)
    assert [len(data.train), len(data.validation), len(data.test)] == [90, 10, 40]
    assert data.test.origins.tolist() == list(range(1, 41))
    assert any("10 of 40 rows of --eval are near-identical" in warning for warning in data.warnings)
    assert data.fingerprint != run(train, kind="encoder").fingerprint


def test_shares(tmp_path):
    data = run(write(tmp_path / "a.jsonl", reviews(100)), kind="encoder", validation_share=0.2, test_share=0.0)
    assert [len(data.train), len(data.validation), len(data.test)] == [80, 20, 0]


def test_model_without_a_template_says_so(tmp_path):
    data = run(write(tmp_path / "a.jsonl", instructions(50)), kind="plain")
    assert any("no chat template; using plain headings" in sentence for sentence in data.description)
    assert data.template is not None
    assert "### Assistant:" in data.template


def test_cut_answers_are_warned_of(tmp_path):
    rows = instructions(100)
    for i in range(10):
        rows[i]["output"] = "y" * 600
    data = run(write(tmp_path / "a.jsonl", rows))
    assert data.warnings == [
        "10 of 100 answers of a.jsonl (10 %) are cut off at 512 tokens; 99 % fit in --max-length "
        + data.warnings[0].split()[-1]
    ]
    assert int(data.warnings[0].split()[-1]) > 600


def test_cut_sources_are_warned_of_beside_a_few_cut_targets(tmp_path):
    rows = [{"source": text, "target": text} for text in TEXTS[:100]]
    for row in rows[:50]:
        row["source"] = str(row["source"]) * 20
    rows[0]["target"] = "y" * 600
    data = run(write(tmp_path / "a.jsonl", rows), kind="seq2seq")
    assert data.warnings == ["50 of 100 texts of a.jsonl (50 %) are cut off at 512 tokens"]
    for i in range(10):
        rows[i]["target"] = "y" * 600
    answers, texts = run(write(tmp_path / "b.jsonl", rows), kind="seq2seq").warnings
    assert answers.startswith("10 of 100 answers of b.jsonl (10 %) are cut off at 512 tokens; 99 % fit in --max-length 6")
    assert texts.startswith("50 of 100 texts of b.jsonl")


def test_many_skipped_are_warned_of(tmp_path):
    rows = instructions(100)
    for i in range(10):
        rows[i]["output"] = ""
    assert run(write(tmp_path / "a.jsonl", rows)).warnings == ["10 of 100 rows of a.jsonl (10 %) cannot be used"]


@pytest.mark.parametrize("task", ["auto", "seq2seq"])
def test_source_and_target(tmp_path, task):
    rows = [{"source": text, "target": text.upper()} for text in TEXTS[:50]]
    data = run(write(tmp_path / "a.jsonl", rows), kind="seq2seq", task=task)
    assert data.task == "seq2seq"
    assert data.train.tokens.target_ids is not None
    assert data.description[0] == "read 50 rows as source/target; learning to write `target` from `source`"


def test_what_asks_is_a_source_only_where_the_model_wants_one(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": text, "context": "c", "answer": text[::-1]} for text in TEXTS[:50]])
    assert run(path).task == "chat"
    assert run(path, kind="seq2seq", eval=path).task == "seq2seq"
    assert run(path, kind="seq2seq").description[0].endswith("learning to write `answer` from `question` and `context`")
    assert run(write(tmp_path / "b.jsonl", reviews(50)), kind="seq2seq").task == "classification"


def test_classes_that_the_model_knows_keep_their_order(tmp_path):
    path = write(tmp_path / "a.jsonl", reviews(50))
    for known in (("good", "bad"), ("good", "so-so", "bad")):
        data = run(path, kind="encoder", known_labels=known)
        assert data.labels == known
        assert [known[label] for label in data.train.tokens.labels] == [row.label for row in data.train.examples]
    other = run(path, kind="encoder", known_labels=("good", "poor"))
    assert other.labels == ("bad", "good")
    assert other.description[0] == "the model's own classes (good, poor) are not those of the rows, so it gets a new head"


def test_evaluation_of_other_files(tmp_path):
    path = write(tmp_path / "b.jsonl", [*reviews(20), {"text": "", "label": "good"}])
    tokenizer = tiny_tokenizer.build("encoder")
    found = prepare_for_evaluation(
        [path], tokenizer, like=DataSettings(max_rows=3), task="classification", labels=("bad", "good"), max_length=64
    )
    assert len(found.part) == 20
    assert found.part.tokens.labels.tolist() == [0, 1] * 10
    assert found.description == ["read 21 rows as text+label; 1 row skipped: row 21 empty text"]
    assert found.warnings == ["3 of 20 texts of b.jsonl (15 %) are cut off at 64 tokens"]
    with pytest.raises(
        DataError, match=r"label 'good' in rows 2, 4, 6 \.\.\., which the model does not know\. Did you mean 'Good'\?"
    ):
        prepare_for_evaluation(
            [path], tokenizer, like=DataSettings(), task="classification", labels=("bad", "Good"), max_length=64
        )


def with_answers(answer: str, count: int = 20) -> list[dict[str, object]]:
    return [{**row, "output": answer} for row in instructions(count)]


REFUSED = {
    "all answers empty": (with_answers(""), {}, ["No row of a.jsonl", "rows 1, 2 ... empty answer"]),
    "most answers empty": ([*with_answers(""), *instructions(9)], {}, ["Only 9 of 29 rows", "empty answer"]),
    "one class": ([{"text": text, "label": "x"} for text in TEXTS], {}, ["All 200 rows have the label 'x' in `label`"]),
    "a class per row": ([{"text": text, "label": text[:9]} for text in TEXTS], {}, ["`label` holds", "too many for classes"]),
    "answers cut off": (with_answers("y" * 600), {}, ["20 of 20 answers", "(100 %)", "--max-length"]),
    "too few rows": (instructions(2), {}, ["2 usable rows", "--eval"]),
    "longer than the model takes": (instructions(20), {"max_length": 513}, ["--max-length 513", "512 tokens"]),
    "everything held out": (instructions(20), {"validation_share": 0.6, "test_share": 0.5}, ["hold out 110 %"]),
    "unknown column": (instructions(20), {"answer_column": "outptu"}, ["no column 'outptu'", "Did you mean 'output'"]),
    "unknown shape": (instructions(20), {"shape": "mesages"}, ["Did you mean 'messages'"]),
    "talk for a model that writes targets": (
        [{"messages": [{"role": role, "content": "x"} for role in ("user", "assistant")]}] * 9,
        {"kind": "seq2seq"},
        ["messages, for the task chat", "writes a target to a source", "--prompt-column and --answer-column"],
    ),
    "a model that only reads": (instructions(20), {"kind": "encoder"}, ["reads text and cannot write", "--label-column"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name):
    rows, settings, words = REFUSED[name]
    with pytest.raises(InputError) as caught:
        run(write(tmp_path / "a.jsonl", rows), **settings)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_eval_with_an_unknown_label(tmp_path):
    train, test = write(tmp_path / "a.jsonl", reviews(50)), write(tmp_path / "b.jsonl", [{"text": "x", "label": "goood"}])
    with pytest.raises(DataError, match=r"b\.jsonl has the label 'goood' in row 1, .* Did you mean 'good'\?"):
        run(train, kind="encoder", eval=test)


def test_same_twice_and_other_order(tmp_path):
    rows = instructions(80)
    once, again = (run(write(tmp_path / f"{i}.jsonl", rows)) for i in range(2))
    assert np.array_equal(once.train.tokens.input_ids, again.train.tokens.input_ids)
    turned = run(write(tmp_path / "c.jsonl", rows[::-1]))
    assert {e.messages for e in turned.test.examples} == {e.messages for e in once.test.examples}


@pytest.mark.parametrize("was_enabled", [True, False])
def test_the_collector_is_as_it_was(tmp_path, was_enabled: bool, monkeypatch: pytest.MonkeyPatch):
    seen: list[bool] = []
    monkeypatch.setattr("tunesmith.data.prepare._check_model", lambda *_: seen.append(gc.isenabled()))
    (gc.enable if was_enabled else gc.disable)()
    try:
        run(write(tmp_path / "a.jsonl", instructions(40)))
        assert (seen, gc.isenabled()) == ([False], was_enabled)
        with pytest.raises(DataError):
            run(str(tmp_path / "nowhere.jsonl"))
        assert gc.isenabled() == was_enabled
    finally:
        gc.enable()
