"""The page of the benchmarks says what the newest results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmarks_table


def _record(suite: str, date: str, speed: float) -> dict[str, Any]:
    def summary(tokens_per_second: float, loss_gap: float | None) -> dict[str, Any]:
        return {
            "tokens_per_second": tokens_per_second,
            "slowest_tokens_per_second": tokens_per_second - 1,
            "fastest_tokens_per_second": tokens_per_second + 1,
            "train_peak_bytes": 1e9,
            "most_other_cores": 0.0,
            "loss_gap": loss_gap,
        }

    return {
        "suite": suite,
        "machine": "m",
        "date": date,
        "num_rows": 64,
        "num_repeats": 3,
        "machine_facts": {"processor": "Some <Processor>", "num_cores": 2, "flags": ["avx2", "avx512_bf16"]},
        "summaries": {"peft-best": summary(100.0, None), "tunesmith": summary(speed, 0.001)},
        "limit": {"share": 0.61},
    }


def test_the_newest_result_of_each_suite_is_taken_in_the_order_of_the_suites(tmp_path: Path):
    for number, record in enumerate(
        [_record("ia3", "2026-01-02", 9), _record("lora", "2026-01-01", 1), _record("lora", "2026-01-03", 2)]
    ):
        (tmp_path / f"{number}.json").write_text(json.dumps(record))
    (tmp_path / "other.json").write_text('{"series": {}}')
    found = benchmarks_table.newest(tmp_path)
    assert [(r["suite"], r["date"]) for r in found] == [("lora", "2026-01-03"), ("ia3", "2026-01-02")]


def test_of_several_results_of_a_day_the_last_is_taken(tmp_path: Path):
    for number, name in enumerate(("day-lora", "day-lora-2", "day-lora-10")):
        (tmp_path / f"{name}.json").write_text(json.dumps(_record("lora", "2026-01-01", number + 1)))
    (found,) = benchmarks_table.newest(tmp_path)
    assert found["summaries"]["tunesmith"] == _record("lora", "2026-01-01", 3)["summaries"]["tunesmith"]


def test_an_older_result_with_other_contestants_stays(tmp_path: Path):
    whole, part = _record("lora", "2026-01-02", 3), _record("lora", "2026-01-01", 2)
    other = _record("lora", "2025-12-31", 1)
    other["summaries"]["trl"] = other["summaries"]["peft-best"]
    for number, record in enumerate([whole, part, other]):
        (tmp_path / f"{number}.json").write_text(json.dumps(record))
    found = benchmarks_table.newest(tmp_path)
    assert [record["date"] for record in found] == ["2026-01-02", "2025-12-31"]
    drawn = benchmarks_table.figure(found)
    assert drawn.count(">lora<") == 1
    assert ">0.03<" in drawn, "3 of 100: the newest"


def test_a_suite_has_a_line_for_each_contestant_and_its_share_of_the_limit():
    text = benchmarks_table.section([_record("lora", "2026-01-01", 200.0)])
    assert "| peft-best | 100 (99 to 101) | 1,000 | 0.50 x | 1.00 x | other rows a step |" in text
    assert "| tunesmith | 200 (199 to 201) | 1,000 | 1.00 x | 1.00 x | 0.10 % |" in text
    assert "reaches 61 % of" in text
    assert "2 cores of Some <Processor> (AVX512_BF16)" in text


def test_a_gradient_that_is_rounded_off_is_told_of():
    record = _record("lora", "2026-01-01", 200.0)
    record["check"] = {"first_norm_gaps": {"peft-best": 0.172, "tunesmith": 0.01}}
    text = benchmarks_table.section([record])
    assert "the first gradient of peft-best is 17 % off in length." in text
    assert "gradient of tunesmith" not in text


def test_without_results_the_page_says_so():
    assert "make bench" in benchmarks_table.section([])


def test_the_figure_names_every_suite():
    eight_bits = _record("lora", "2026-01-01", 200.0)
    eight_bits["summaries"]["tunesmith-8bit"] = {**eight_bits["summaries"]["tunesmith"], "tokens_per_second": 300.0}
    drawn = benchmarks_table.figure([eight_bits, _record("ia3", "2026-01-01", 150.0)])
    assert drawn.count("<svg") == 1
    assert all(f">{word}<" in drawn for word in ("lora", "ia3", "2.00", "3.00", "1.50", "1.00"))


def test_two_tables_tell_who_is_fastest_with_the_same_rows_and_at_their_best():
    record = _record("classification", "2026-01-01", 200)
    default, grouped = dict(record["summaries"]["peft-best"], loss_gap=0.0), record["summaries"]["peft-best"]
    ours = record["summaries"]["tunesmith"]
    record["summaries"] = {
        "peft-default": default | {"tokens_per_second": 80.0},
        "peft-grouped": grouped,
        "tunesmith": ours,
        "tunesmith-8bit": ours | {"tokens_per_second": 300.0, "train_peak_bytes": 5e8},
    }
    same, best = benchmarks_table.section([record]).split("**Everyone at their best**")
    assert "| classification | peft-default | 80 | 1,000 | tunesmith | 200 | 1,000 | 2.50 x | 1.00 x |" in same
    assert "| classification | peft-grouped | 100 | 1,000 | tunesmith-8bit | 300 | 500 | 3.00 x | 0.50 x |" in best
    assert "peft-grouped" not in same
