import importlib
import itertools
import re
from types import ModuleType

import pytest

from tunesmith.planning import catalogue


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("learning_table")


def record(method: str, task: str = "reviews", after: float = 0.85, other_cores: float = 0.0) -> dict[str, object]:
    metric = "accuracy" if task == "reviews" else "perplexity"
    return {
        "task": task, "method": method, "date": "2027-01-02", "metric": metric, "num_training_rows": 8400, "num_steps": 526,
        "settings": {"data": "starter:x", "model": "starter:y", "arguments": ["--steps", "3"], "num_threads": 2},
        "machine_facts": {"processor": "A Processor"}, "trainable_share": 0.0123, "learning_rate": 0.001,
        "before": {"value": 0.5}, "after": {"value": after, "low": after - 0.02, "high": after + 0.02, "count": 1056},
        "train_seconds": 65.0, "peak_memory_bytes": 5e8, "other_cores": other_cores,
    }  # fmt: skip


def test_a_row_says_all(tool):
    text = tool.section([record("lora")])
    row = next(line for line in text.splitlines() if line.startswith("| lora"))
    assert row == "| lora | 1.23% | 0.001 | 526 | 50.0% | 85.0% (83.0% to 87.0%) | 1 min 05 s | 500 MB |"
    assert "`tunesmith fit starter:x --model starter:y --steps 3 --method NAME`" in text
    assert "2027-01-02, on A Processor, 2 threads" in text


def test_what_stays_below_the_reference_is_marked_by_how_much(tool):
    assert "**5.1 points below**" in tool.section([record("lora", after=0.75)])
    assert "points below" not in tool.section([record("lora", after=0.801)])
    assert "points below" not in tool.section([record("lora", task="instructions", after=0.1)])


def test_a_disturbed_run_says_so(tool):
    assert "0.8 cores busy with other work" in tool.section([record("lora", other_cores=0.8)])
    assert "busy" not in tool.section([record("lora", other_cores=0.05)])


def test_methods_stand_in_the_order_of_the_catalogue_and_gone_ones_not_at_all(tool):
    found = tool.by_task([record("qlora"), record("no-such-method"), record("adapter")])
    assert [row["method"] for row in found["reviews"]] == ["adapter", "qlora"]


def test_without_measurements_the_page_says_so(tool):
    text = tool.written("a <!-- learnt -->old<!-- end of learnt --> b", [])
    assert text == "a <!-- learnt -->\nNot measured yet: `make learning` does it.\n<!-- end of learnt --> b"


def test_names_keep_apart_in_their_order(tool):
    placed = tool.spread([-0.2, 0.5, 0.5, 0.99, 1.0], 0.1)
    assert placed == sorted(placed)
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(placed))
    assert min(placed) >= 0
    assert max(placed) <= 1


def test_the_figure_names_every_method_once_for_each_task(tool):
    names = [entry.name for entry in catalogue.entries()]
    records = [record(name, task, 0.8 + 0.01 * i) for task in ("reviews", "instructions") for i, name in enumerate(names)]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", tool.figure(records))
    assert {name: texts.count(name) for name in names} == dict.fromkeys(names, 2)


def test_the_figure_is_the_same_every_time(tool):
    records = [record("lora"), record("full", after=0.9)]
    assert tool.figure(records) == tool.figure(records)
