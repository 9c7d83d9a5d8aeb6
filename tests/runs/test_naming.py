from __future__ import annotations

import pytest

from tunesmith.runs.naming import new_run
from tunesmith.settings import DataSettings, FitSettings


@pytest.mark.parametrize(
    ("data", "model", "method", "name"),
    [
        (("reviews.csv",), "starter:minilm", "lora", "reviews-minilm-lora-1"),
        (("data/My Reviews.jsonl.gz",), "models/x.Q4_1.gguf", "full", "My-Reviews-x.Q4_1-full-1"),
        (("a.csv", "b.csv", "c.csv"), "org/Some-Model/", "lora", "a-and-2-more-Some-Model-lora-1"),
        (("../..",), "C:\\models\\m", "lora", "data-m-lora-1"),
        (("$(touch x);\n.csv",), "m", "lora", "touch-x-m-lora-1"),
        (("é漢字.csv",), "m", "lora", "data-m-lora-1"),
        (("x" * 300 + ".csv",), "m", "lora", "x" * 40 + "-m-lora-1"),
    ],
)
def test_names(data, model, method, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new_run(FitSettings(model=model, method={"name": method}, data=DataSettings(data=data))) == f"runs/{name}"


def test_the_first_free_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a-m-lora-1").mkdir(parents=True)
    (tmp_path / "runs" / "a-m-lora-3").mkdir()
    assert new_run(FitSettings(model="m", data=DataSettings(data=("a.csv",)))) == "runs/a-m-lora-2"
