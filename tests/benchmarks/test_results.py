import csv
import json
import math

import pytest

from benchmarks import job, results

FACTS = results.Facts(loss_gap=0.004, learnt_share=math.nan, most_other_cores=0.0)
COUNTS = results.TokenCounts(real=1000, labelled=600, padded=1600)


def run(step_seconds: list[float], peak_bytes: int = 3_000_000) -> job.Measurement:
    return job.Measurement(step_seconds=step_seconds, train_peak_bytes=peak_bytes, load_peak_bytes=2_000_000, load_seconds=1.0)


def summary(tokens_per_second: float, peak_bytes: int = 3_000_000) -> results.Summary:
    seconds = COUNTS.real / tokens_per_second
    return results.summarise([run([9.0, seconds], peak_bytes)], COUNTS, 1, import_bytes=1_000_000, facts=FACTS)


def test_speed_leaves_warm_up_out():
    assert results.speed(run([100.0, 5.0, 3.0, 2.0]), 1000, num_warmup_steps=2) == 200


def test_speed_needs_a_timed_step():
    with pytest.raises(ValueError, match="nothing to time"):
        results.speed(run([1.0]), 1000, num_warmup_steps=1)


def test_summary_is_the_median_above_the_import():
    runs = [run([7.0, 10.0], 5_000_000), run([9.0, 2.0], 4_000_000), run([8.0, 5.0], 9_000_000)]
    found = results.summarise(runs, COUNTS, 1, import_bytes=1_000_000, facts=results.Facts(0.0, 1.0, most_other_cores=0.5))
    assert (found.slowest_tokens_per_second, found.tokens_per_second, found.fastest_tokens_per_second) == (100, 200, 500)
    assert (found.train_peak_bytes, found.load_peak_bytes) == (4_000_000, 1_000_000)
    assert found.first_step_seconds == 8
    assert found.is_noisy


def test_ratios_take_the_fastest_peer():
    found = results.ratios(
        {"peft-default": summary(50, 9_000_000), "peft-best": summary(200, 5_000_000), "tunesmith": summary(300, 3_000_000)}
    )
    assert found == pytest.approx(
        {
            "speed_against_best_peer": 1.5,
            "memory_against_best_peer": 0.5,
            "speed_against_default": 6,
            "memory_against_default": 0.25,
        }
    )


@pytest.mark.parametrize("names", [["tunesmith"], ["peft-best"], []])
def test_no_ratio_without_both_sides(names):
    assert results.ratios({name: summary(100) for name in names}) == {}


def test_table_has_a_line_for_everyone():
    lines = results.table({"peft-best": summary(200), "tunesmith": summary(1300)}).splitlines()
    assert len(lines) == 4
    assert "| tunesmith | 1,300 (1,300-1,300) | 2 | 1 |" in lines[3]
    assert "| 38% | 0.40% |  | 0.00 cores |" in lines[3]
    assert len({line.count("|") for line in lines}) == 1


def test_results_never_overwrite_one_another(tmp_path):
    first = results.write_json({"a": 1}, tmp_path / "results", "day")
    second = results.write_json({"a": 2}, tmp_path / "results", "day")
    assert (first.name, second.name) == ("day.json", "day-2.json")
    assert json.loads(first.read_text()) == {"a": 1}


def test_what_was_not_measured_is_null(tmp_path):
    path = results.write_json({"a": [math.nan, 1.5], "b": {"c": math.inf}}, tmp_path, "day")
    assert json.loads(path.read_text()) == {"a": [None, 1.5], "b": {"c": None}}


def test_history_grows_by_a_line_each(tmp_path):
    path = tmp_path / "history.csv"
    common = {"date": "2030-01-02", "commit": "abc", "machine": "m", "suite": "lora", "num_rows": 64, "num_repeats": 3}
    for _ in range(2):
        results.append_history(path, common, {"peft-best": summary(200), "tunesmith": summary(300)})
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert [line["contestant"] for line in lines] == ["peft-best", "tunesmith"] * 2
    assert lines[1]["tokens_per_second"] == "300.0"
    assert lines[1]["train_peak_mb"] == "2"
    assert None not in lines[0].values()
