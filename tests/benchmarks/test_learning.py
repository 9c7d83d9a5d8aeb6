import pytest
from benchmarks.learning import Job

from benchmarks import learning
from tunesmith.errors import UnknownName
from tunesmith.planning import catalogue


def measure(value: float) -> dict[str, object]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "count": 90}


RESULT = {
    "stages": [
        {"name": "majority class", "split": "test", "metrics": {"accuracy": measure(0.51)}},
        {"name": "base model, untrained head", "split": "test", "metrics": {"accuracy": measure(0.55), "loss": measure(0.7)}},
        {"name": "best checkpoint", "split": "validation", "metrics": {"accuracy": measure(0.99)}},
        {"name": "tuned model", "split": "test", "metrics": {"accuracy": measure(0.85), "loss": measure(0.4)}},
        {"name": "paired difference", "split": "test", "metrics": {"accuracy": measure(0.3)}},
    ],
    "model": {"num_trainable": 5, "num_parameters": 1000},
    "settings": {"training": {"learning_rate": 0.01}},
    "progress": {"steps": 30},
    "data": {"num_train": 720},
    "cost": {"train_seconds": 7.0, "total_seconds": 9.0, "peak_memory_bytes": 100, "memory_above_import_bytes": 40},
}


def job(method: str = "lora", task: str = "reviews", num_threads: int = 2, extra: tuple[str, ...] = ()) -> Job:
    return Job(task=task, method=method, extra=extra, num_threads=num_threads)


def record(of: Job) -> learning.Record:
    return {"task": of.task, "method": of.method, "settings": of.settings}


def test_every_method_and_preset_learns_both_tasks():
    jobs = learning.jobs_of(list(learning.TASKS), [], (), 2)
    expected = {(task, entry.name) for task in ("reviews", "instructions") for entry in catalogue.entries()}
    assert {(found.task, found.method) for found in jobs} == expected
    assert len(jobs) == len(expected)


@pytest.mark.parametrize(("tasks", "methods", "named"), [(["review"], [], "'reviews'"), (["reviews"], ["lorra"], "'lora'")])
def test_an_unknown_name_is_refused_with_the_nearest(tasks, methods, named):
    with pytest.raises(UnknownName, match=named):
        learning.jobs_of(tasks, methods, (), 2)


@pytest.mark.parametrize(
    "other", [job("ia3"), job(task="instructions"), job(num_threads=4), job(extra=("--steps", "3"))], ids=str
)
def test_only_the_same_run_is_left_out(other, tmp_path):
    learning.write(tmp_path / "learning.json", [record(job())])
    assert learning.missing([job(), other], learning.read(tmp_path / "learning.json")) == [other]


def test_a_new_record_takes_the_place_of_the_one_with_other_settings():
    old, kept = record(job(num_threads=4)), record(job("ia3"))
    assert learning.added([old, kept], record(job())) == [kept, record(job())]


def test_nothing_is_known_without_a_file(tmp_path):
    assert learning.read(tmp_path / "learning.json") == []


def test_a_file_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "learning.json"
    path.write_text('{"schema": 99, "runs": []}')
    with pytest.raises(ValueError, match="schema 99"):
        learning.read(path)


def test_what_was_measured_on_held_out_rows_is_kept():
    found = learning.measured(job(), RESULT, other_cores=0.2)
    assert (found["before"], found["after"], found["difference"]) == (measure(0.55), measure(0.85), measure(0.3))
    assert (found["trainable_share"], found["learning_rate"], found["other_cores"]) == (0.005, 0.01, 0.2)


def test_a_run_without_the_measure_is_refused():
    with pytest.raises(ValueError, match="no perplexity before and after"):
        learning.measured(job(task="instructions"), RESULT, other_cores=0.0)


def test_the_command_that_is_kept_names_no_folder_of_this_machine():
    found = learning.measured(job(extra=("--steps", "3")), RESULT, other_cores=0.0)["command"]
    assert found[:3] == ["tunesmith", "fit", "starter:movie-reviews"]
    assert found[-2:] == ["--out", "RUN"]
    assert found[found.index("--steps") + 1] == "3"


def test_a_failed_run_says_which_and_why(monkeypatch):
    monkeypatch.setattr(Job, "command", lambda self, folder: ["tunesmith", "fit", "--no-such-flag"])
    with pytest.raises(ChildProcessError, match="exit code 2"):
        learning.run(job(), None)
