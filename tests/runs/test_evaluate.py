from __future__ import annotations

import json

import pytest

import run_data
from tunesmith.commands import main
from tunesmith.errors import DataError


@pytest.mark.parametrize("method", ["lora", "full"])
def test_accuracy_is_the_share_of_right_predictions(finished, tmp_path, method):
    other = run_data.write_reviews(tmp_path / "other.csv", num_rows=21, seed=9)
    run = finished("reviews", method)
    rows = [line.rsplit(",", 1) for line in other.read_text().splitlines()[1:]]
    right = sum(p == label for p, (_, label) in zip(run.predict([t for t, _ in rows]), rows, strict=True))
    (stage,) = run.evaluate(other)
    accuracy = stage.metrics["accuracy"]
    assert accuracy.value == pytest.approx(right / 21)
    assert accuracy.count == 21
    assert accuracy.low < accuracy.value < accuracy.high
    assert stage.split == "other.csv"


def test_the_test_rows_again_give_the_numbers_of_the_run(finished, bench):
    run = finished("chats")
    (stage,) = run.evaluate(bench.more_chats)
    assert stage.metrics["loss"].value == pytest.approx(run.metrics["loss"], rel=1e-5)


def test_a_column_that_the_run_was_told_of_is_known(no_figures, bench, tmp_path):
    import tunesmith as ts

    def renamed(name, rows):
        path = tmp_path / name
        path.write_text("said,verdict,more\n" + "".join(f"{r},x\n" for r in rows))
        return path

    rows = bench.reviews.read_text().splitlines()[1:]
    more = {"text_column": "said", "label_column": "verdict"}
    run = ts.fit(renamed("a.csv", rows), model=bench.bert, steps=1, out=tmp_path / "run", precision="float32", more=more)
    assert run.evaluate(renamed("b.csv", rows[:9]))[0].metrics["accuracy"].count == 9


def test_what_is_left_out_or_cut_is_said(finished, tmp_path, capsys):
    """Numbers of some of the rows, or of half of the answers, are not those of the data."""
    rows = [json.loads(line) for line in run_data.write_chats(tmp_path / "a.jsonl", num_rows=20).read_text().splitlines()]
    for row in rows[:4]:
        row["completion"] = ""
    for row in rows[4:10]:
        row["completion"] = "red " * 100
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = finished("chats")
    assert main(["evaluate", str(run.folder), str(tmp_path / "a.jsonl"), "--json"]) == 0
    seen = capsys.readouterr()
    content = json.loads(seen.out)
    assert content["stages"][0]["metrics"]["loss"]["count"] == 16
    assert content["description"][0] == "read 20 rows as prompt/completion; 4 rows skipped: rows 1, 2 ... empty answer"
    cut, skipped = content["warnings"]
    assert cut.startswith("6 of 16 answers of a.jsonl (38 %) are cut off at 64 tokens")
    assert skipped == "4 of 20 rows of a.jsonl (20 %) cannot be used"
    for sentence in (*content["description"], cut, skipped):
        assert sentence in " ".join(seen.err.split())


def test_data_of_the_starters_wherever_data_are_named(bench, no_figures, tmp_path, monkeypatch):
    import tunesmith as ts
    from tunesmith.runs import merge
    from tunesmith.watch import Quiet

    monkeypatch.setattr("tunesmith.starter.resolve_data", lambda name, _: bench.folder / name.removeprefix("starter:"))
    run = ts.fit(
        "starter:chats.jsonl",
        model=bench.llama,
        eval="starter:more-chats.jsonl",
        steps=1,
        precision="float32",
        out=tmp_path / "run",
        more={"base_bits": 8},
    )
    assert run.result.data.num_test == 12
    assert run.result.settings["data"]["eval"] == "starter:more-chats.jsonl"
    (stage,) = run.evaluate("starter:more-chats.jsonl")
    assert stage.metrics["loss"].value == pytest.approx(run.metrics["loss"], rel=1e-5)
    found = merge.merge(run.folder, tmp_path / "merged", Quiet(), rows=["starter:more-chats.jsonl"], max_divergence=1)
    assert found is not None
    assert found.num_predictions > 0


def test_an_unknown_label(finished, tmp_path):
    path = tmp_path / "more.csv"
    path.write_text("text,label\na day,bad\na day,goood\n")
    with pytest.raises(DataError, match=r"'goood' in row 2.*Did you mean 'good'\? Known: bad, fair, good"):
        finished("reviews").evaluate(path)


def test_the_command(finished, bench, capsys):
    run = finished("reviews")
    assert main(["evaluate", str(run.folder), str(bench.reviews), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["stages"][0]["metrics"]["accuracy"]["count"] == 60
    assert main(["evaluate", str(run.folder), str(bench.reviews)]) == 0
    assert "60 rows" in capsys.readouterr().out
