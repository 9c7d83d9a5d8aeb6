from benchmarks import job as jobs
from benchmarks import workload


def row(length: int) -> workload.Row:
    return {"input_ids": [1] * length, "labels": [1] * length}


def test_rows_follow_the_sections_and_warm_up_stays_first(tmp_path):
    data = workload.Workload([row(9), row(8)], [row(7), row(3), row(5), row(4)], [row(2)], pad_token_id=0)
    job = jobs.Job(
        mode="train",
        workload_folder=str(tmp_path),
        sections=[("warmup", 2, 1), ("timed", 3, 1), ("check", 1, 2)],
        num_warmup_steps=1,
        rows_per_step=2,
        order="grouped",
    )
    assert [len(one["input_ids"]) for one in job.rows(data)] == [8, 9, 2, 2, 3, 5, 7]


def test_written_job_and_measurement_are_read_back(tmp_path):
    job = jobs.Job(mode="train", workload_folder="there", sections=[("timed", 8, 1)], precision="bfloat16", rows_per_pass=1)
    jobs.write(job, tmp_path / "job.json")
    assert jobs.read_job(tmp_path / "job.json") == job
    measurement = jobs.Measurement(losses=[1.5, 1.25], versions={"torch": "2"}, movement=0.1)
    jobs.write(measurement, tmp_path / "measurement.json")
    assert jobs.read_measurement(tmp_path / "measurement.json") == measurement
