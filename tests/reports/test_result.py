"""`run.json` comes back as it was written, or is refused with a reason; reading it costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.errors import RunError
from tunesmith.reports.result import RunResult, Stage


def change(folder: Path, path: list[str | int], value: object) -> None:
    raw = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    target = raw
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    (folder / "run.json").write_text(json.dumps(raw), encoding="utf-8")


def test_there_and_back(classification_result: RunResult, chat_result: RunResult, tmp_path: Path):
    for result in (classification_result, chat_result):
        result.save(tmp_path)
        assert RunResult.load(tmp_path) == result
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["stages"], 5),
        (["stages"], "text"),
        (["retention"], []),
        (["stages", 0, "metrics", "accuracy", "value"], "<script>alert(1)</script>"),
        (["cost", "peak_memory_bytes"], "much"),
        (["cost", "peak_memory_bytes"], None),
        (["data", "labels"], [1]),
        (["model"], None),
        (["status"], "done"),
        (["warnings"], {"a": "b"}),
    ],
)
def test_damage_is_named(classification_result: RunResult, tmp_path: Path, path: list[str | int], value: object):
    classification_result.save(tmp_path)
    change(tmp_path, path, value)
    with pytest.raises(RunError, match="is damaged"):
        RunResult.load(tmp_path)


def test_what_may_be_none(classification_result: RunResult, tmp_path: Path):
    classification_result.save(tmp_path)
    change(tmp_path, ["cost"], None)
    change(tmp_path, ["settings"], {"anything": [1, None, "x"]})
    loaded = RunResult.load(tmp_path)
    assert loaded.cost is None
    assert loaded.settings == {"anything": [1, None, "x"]}


def test_a_record_of_before_is_read(classification_result: RunResult, tmp_path: Path):
    result = classification_result
    paired = Stage(name="paired difference", kind="difference", split="test", metrics=result.stages[-1].metrics)
    result.stages.append(paired)
    result.save(tmp_path)
    raw = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    for stage in raw["stages"]:
        del stage["kind"]
    raw["cost"]["predicted_seconds"] = 121.0
    (tmp_path / "run.json").write_text(json.dumps(raw), encoding="utf-8")
    assert RunResult.load(tmp_path) == result


def test_newer_missing_and_broken_files(classification_result: RunResult, tmp_path: Path):
    with pytest.raises(RunError, match="is not a run folder"):
        RunResult.load(tmp_path)
    classification_result.save(tmp_path)
    change(tmp_path, ["schema_version"], 99)
    with pytest.raises(RunError, match="schema version 99"):
        RunResult.load(tmp_path)
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="damaged"):
        RunResult.load(tmp_path)


def test_reading_a_result_imports_nothing_heavy():
    modules = "result", "curves", "escape", "wording", "verdict", "usage", "svg", "figures", "html", "card", "summary"
    imports = "; ".join(f"import tunesmith.reports.{name}" for name in modules)
    heavy = "{'torch', 'transformers', 'jinja2', 'matplotlib', 'rich'}"
    script = (
        f"import sys, tunesmith.reports.result; assert 'numpy' not in sys.modules; {imports}; print({heavy} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
