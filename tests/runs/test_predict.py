from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import run_data
from tunesmith.data.examples import Message
from tunesmith.errors import InputError, RunError
from tunesmith.evaluation.generate import Generation
from tunesmith.evaluation.sampling import Sampling
from tunesmith.runs import predict
from tunesmith.training import precision


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_classifier_gives_label_names(finished, bench, method):
    rows = [line.rsplit(",", 1) for line in bench.reviews.read_text().splitlines()[1:]]
    predicted = finished("reviews", method).predict([text for text, _ in rows])
    assert set(predicted) <= {"bad", "fair", "good"}
    assert len(predicted) == len(rows)
    assert len(set(predicted)) > 1, "a model that says one thing to everything would pass any test"


def test_the_order_of_the_texts_is_kept(finished):
    texts = [("word " * n).strip() for n in (9, 1, 5, 2)] + ["a bad one", "a good one"]
    run = finished("reviews")
    assert run.predict(texts) == [run.predict([text])[0] for text in texts]


def test_predictions_are_those_of_the_saved_model(finished):
    """A full fine-tune is an ordinary transformers folder: the library alone gives the same labels."""
    run = finished("reviews", "full")
    folder = run.folder / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["a bad day", "a fair trade", "a good book", "the river"]
    with torch.no_grad():
        ids = [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in texts]
    assert run.predict(texts) == [model.config.id2label[index] for index in ids]


def test_a_chat_returns_whether_the_model_ended_its_answer(finished):
    predictor, ended, expected = predict.load(finished("chats").folder), [], []
    for seed in range(6):
        settings = Generation(max_new_tokens=1, sampling=Sampling(temperature=2.0, seed=seed))
        ended.append(_returned(predictor.chat([Message("user", "red green")], settings)))
        (answer,) = predictor.answers(["red green"], settings)
        expected.append(answer.ended)
        assert str(answer) == answer.text + ("" if answer.ended else " …")
        assert predictor.predict(["red green"], settings) == [answer.text]
    assert ended == expected
    assert set(ended) == {True, False}


def _returned(pieces: Generator[str, None, bool]) -> bool:
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def test_pairs(finished):
    run = finished("pairs")
    assert set(run.predict([("red stone", "red stone"), ("red stone", "winter house")])) <= {"same", "other"}
    with pytest.raises(InputError, match="tuned on pairs of texts"):
        run.predict(["red stone"])
    with pytest.raises(InputError, match="A pair is two texts, found 3"):
        run.predict([("a", "b", "c")])
    with pytest.raises(InputError, match="tuned on single texts"):
        finished("reviews").predict([("a", "b")])


def test_nothing_asked(finished):
    assert finished("reviews").predict([]) == []


def test_a_writer_answers(finished):
    answers = finished("chats").predict(["red green"], max_new_tokens=4)
    assert len(answers) == 1
    assert isinstance(finished("documents").predict(["red green"], max_new_tokens=4)[0], str)


def test_only_a_chat_model_chats(finished):
    with pytest.raises(InputError, match="tuned for 'text', not for chat"):
        finished("documents").chat("hello")


def test_chat_is_what_predict_says(finished):
    run = finished("chats")
    said = run.chat("red green", max_new_tokens=4)
    assert run.predict(["red green"], max_new_tokens=4) == [said]


def test_drawn_answers_are_those_of_their_seed(finished):
    run = finished("chats")
    said = {seed: run.chat("red green", max_new_tokens=12, temperature=2.0, seed=seed) for seed in range(4)}
    assert said[1] == run.chat("red green", max_new_tokens=12, temperature=2.0, seed=1)
    assert len(set(said.values())) > 1
    assert run.chat("red green", max_new_tokens=12, temperature=2.0, top_p=1e-6) == run.chat("red green", max_new_tokens=12)


@pytest.mark.parametrize(("method", "dtype"), [("lora", torch.float32), ("bitfit", torch.bfloat16), ("full", torch.bfloat16)])
def test_a_run_in_16_bits_answers_in_16_bits_with_the_numbers_that_it_had(
    monkeypatch, no_figures, bench, tmp_path, method, dtype
):
    """As large in memory as while it was trained, and no larger."""
    run = _trained_in_16_bits(bench, tmp_path / "run", method)
    monkeypatch.setattr(precision, "choose", _choosing(torch.bfloat16))
    model = predict.load(run.folder).model
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {dtype}
    (stage,) = run.evaluate(bench.more_chats)
    assert stage.metrics["loss"].value == pytest.approx(run.metrics["loss"], rel=1e-6)


def test_a_machine_that_is_no_faster_in_16_bits_answers_in_32(monkeypatch, no_figures, bench, tmp_path):
    run = _trained_in_16_bits(bench, tmp_path / "run", "lora")
    monkeypatch.setattr(precision, "choose", _choosing(torch.float32))
    assert {p.dtype for p in predict.load(run.folder).model.parameters()} == {torch.float32}
    (stage,) = run.evaluate(bench.more_chats)
    assert stage.metrics["loss"].value == pytest.approx(run.metrics["loss"], rel=1e-2)


def test_a_run_in_32_bits_answers_in_32(monkeypatch, finished):
    monkeypatch.setattr(precision, "choose", _choosing(torch.bfloat16))
    assert {p.dtype for p in predict.load(finished("chats").folder).model.parameters()} == {torch.float32}


def _trained_in_16_bits(bench, folder: Path, method: str):
    import tunesmith as ts

    how = {"method": method, "steps": 3, "precision": "bfloat16", "more": {"patience": 0}}
    return ts.fit(bench.chats, model=bench.llama, eval=bench.more_chats, out=folder, **how)


def _choosing(fastest: torch.dtype):
    """A machine that is fastest in one number format."""
    return lambda wish, _: (fastest if wish == "auto" else getattr(torch, wish), "")


@pytest.mark.parametrize("status", ["killed", "interrupted", "failed"])
def test_an_unfinished_run_has_no_model(finished, tmp_path, status):
    run = finished("reviews")
    dataclasses.replace(run.result, status=status).save(tmp_path)
    with pytest.raises(RunError, match=f"is {status}, so it has no tuned model yet.*tunesmith resume"):
        predict.load(tmp_path)


def test_another_base_model_is_refused(finished, tmp_path):
    """An adapter on the wrong weights would answer, wrongly."""
    run = finished("reviews")
    base = run_data.save_model(tmp_path / "base")
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    record = json.loads((folder / "run.json").read_text())
    record["model"]["name"] = str(base)
    (folder / "run.json").write_text(json.dumps(record))
    texts = ["a bad day", "the river"]
    assert predict.load(folder).predict(texts) == run.predict(texts)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    with pytest.raises(RunError, match="is not the one that .* was tuned on"):
        predict.load(folder)


def test_a_run_is_found_from_another_folder(finished, tmp_path, monkeypatch):
    """Names are kept as typed; the folder they were typed in is recorded, too."""
    run = finished("reviews")
    record = json.loads((run.folder / "run.json").read_text())
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    base = Path(record["model"]["name"]).resolve()
    record["model"]["name"], record["directory"] = base.name, str(base.parent)
    (folder / "run.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    assert predict.load(folder).predict(["a bad day"]) == run.predict(["a bad day"])
