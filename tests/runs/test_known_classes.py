"""A base model that is a classifier already is measured as what it is, and goes on from there."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

import run_data

HEAD = ("classifier.weight", "classifier.bias")
SETTINGS = {"method": "lora", "learning_rate": 0.001, "precision": "float32"}


@pytest.fixture(scope="module")
def classifier(bench, tmp_path_factory):
    """A model that tells the reviews' classes apart, with its classes in another order than a run would give them."""
    import tunesmith as ts

    folder = tmp_path_factory.mktemp("classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.reports.figures.draw", lambda *_: "<svg></svg>")
        rows = run_data.write_reviews(folder / "many.csv", num_rows=120)
        taught = {"method": "full", "learning_rate": 0.005, "steps": 80, "precision": "float32", "more": {"patience": 0}}
        run = ts.fit(rows, model=bench.bert, out=folder / "run", **taught)
    turned = folder / "turned"
    shutil.copytree(run.folder / "model", turned)
    weights = load_file(turned / "model.safetensors")
    save_file(weights | {name: weights[name].flip(0) for name in HEAD}, turned / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((turned / "config.json").read_text())
    names = [config["id2label"][str(place)] for place in (2, 1, 0)]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    (turned / "config.json").write_text(json.dumps(config))
    return turned


def accuracy(run, name: str) -> float:
    return next(stage.metrics["accuracy"].value for stage in run.result.stages if stage.name == name)


def test_its_own_classes_are_kept(no_figures, classifier, bench, tmp_path):
    import tunesmith as ts

    other = run_data.write_reviews(tmp_path / "other.csv", num_rows=30, seed=5)
    run = ts.fit(bench.reviews, model=classifier, eval=other, out=tmp_path / "run", steps=1, **SETTINGS)
    assert run.result.data.labels == ["good", "fair", "bad"]
    assert accuracy(run, "base model") > 0.8
    (stage,) = ts.load(run.folder).evaluate(other)
    assert stage.metrics["accuracy"].value == accuracy(run, "tuned model") > 0.8
    assert "untrained" not in (run.folder / "report.html").read_text()


def test_for_other_classes_its_head_is_new(no_figures, classifier, bench, tmp_path):
    import tunesmith as ts

    path = tmp_path / "other.csv"
    path.write_text(bench.reviews.read_text().replace(",good", ",splendid"))
    run = ts.fit(path, model=classifier, out=tmp_path / "run", steps=1, **SETTINGS)
    assert run.result.data.labels == ["bad", "fair", "splendid"]
    assert "base model, untrained head" in {stage.name for stage in run.result.stages}
    assert "own classes (good, fair, bad) are not those of the rows" in run.result.data.description
