from dataclasses import replace

import pytest

from benchmarks import suites, workload

WORK = suites.INSTRUCTIONS


def row(length: int, num_answer: int = 2) -> workload.Row:
    ids = list(range(length))
    return {"input_ids": ids, "labels": [workload.IGNORED] * (length - num_answer) + ids[length - num_answer :]}


def lengths(rows: list[workload.Row]) -> list[int]:
    return [len(one["input_ids"]) for one in rows]


def test_choose_takes_rows_in_order_and_leaves_long_and_empty_ones_out():
    rows = [row(WORK.max_tokens + 1), row(9, num_answer=0), *(row(10 + i) for i in range(100))]
    found = workload.choose(rows, 7, WORK)
    assert lengths(found.warmup + found.timed) == list(range(10, 90))
    assert lengths(found.check) == list(range(90, 98))
    assert found.pad_token_id == 7


def test_choose_takes_a_text_with_its_class():
    rows = [row(10 + i, num_answer=1) for i in range(100)]
    assert len(workload.choose(rows, 0, replace(WORK, task="classification")).check) == WORK.num_check
    with pytest.raises(ValueError, match="needs more than"):
        workload.choose(rows, 0, WORK)


def test_choose_refuses_too_few_rows():
    with pytest.raises(ValueError, match="needs more than"):
        workload.choose([row(10)] * 80, 0, WORK)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("given", [9, 3, 7, 5, 8, 4]),
        ("sorted_in_step", [3, 9, 5, 7, 4, 8]),
        ("grouped", [3, 4, 5, 7, 8, 9]),
    ],
)
def test_arrange(order: workload.Order, expected: list[int]):
    rows = [row(length) for length in (9, 3, 7, 5, 8, 4)]
    assert lengths(workload.arrange(rows, 2, order)) == expected


def test_token_counts():
    rows = [row(4), row(10, num_answer=3), row(6)]
    assert workload.num_tokens(rows) == 20
    assert workload.num_labelled(rows) == 7
    assert workload.num_padded(rows, 1) == 20
    assert workload.num_padded(rows, 2) == 26


def test_written_workload_is_read_back(tmp_path):
    written = workload.Workload([row(3)], [row(4)], [row(5)], pad_token_id=2)
    workload.write(written, tmp_path / "rows.json")
    assert workload.read(tmp_path / "rows.json") == written
