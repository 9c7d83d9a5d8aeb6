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
