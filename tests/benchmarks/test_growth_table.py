"""The page's tables and figure of growth say what the newest result says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import growth_table
import section


def _record(date: str) -> dict[str, Any]:
    def point(rows: int, length: int, vocabulary: int, seconds: float) -> dict[str, Any]:
        place = {"rows": rows, "length": length, "vocabulary": vocabulary}
        return {"point": place, "step_seconds": [seconds, seconds, 99.0], "step_bytes": 2e8, "other_cores": 0.0}

    return {
        "date": date,
        "machine_facts": {"processor": "Some Processor", "num_cores": 2},
        "series": {
            "rows": [point(4, 128, 8192, 0.1024), point(8, 128, 8192, 0.2048)],
            "length": [point(32, 128, 8192, 0.4), point(4, 1024, 8192, 0.5)],
            "vocabulary": [point(16, 128, 8192, 0.2), point(16, 128, 262144, 0.3)],
        },
    }


def test_the_newest_is_taken(tmp_path: Path):
    assert section.newest_result(tmp_path, "growth") is None
    for name, date in (("2026-01-02-m", "a"), ("2026-01-03-m", "b"), ("2026-01-03-m-2", "c"), ("2025-01-04-m", "d")):
        (tmp_path / f"growth-{name}.json").write_text(json.dumps(_record(date)))
    found = section.newest_result(tmp_path, "growth")
    assert found is not None
    assert found["date"] == "c"


def test_the_tables_and_the_figure():
    text, drawn = growth_table.section(_record("2026-01-01")), growth_table.figure(_record("2026-01-01"))
    assert "| 4 | 200 | 200 |" in text  # 0.1024 s for 512 tokens
    assert "| 262,144 | 146 | 200 |" in text
    assert all(f">{word}<" in drawn for word in ("rows", "length", "vocabulary", "256k", "MB a step"))


def test_without_a_result_the_page_says_so():
    assert "benchmarks.growth" in growth_table.section(None)
