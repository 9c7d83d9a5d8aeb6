from benchmarks import contestants, launch, suites


def test_what_changes_speed_is_not_inherited():
    inherited = {"PATH": "/bin", "OMP_NUM_THREADS": "9", "MALLOC_ARENA_MAX": "1", "LD_PRELOAD": "x", "PYTHONPATH": "y"}
    found = launch.variables(inherited, contestants.CONFIGURATIONS["peft-default"].variables, num_threads=3)
    assert found["PATH"] == "/bin"
    assert found["OMP_NUM_THREADS"] == "3"
    assert not found.keys() & {"MALLOC_ARENA_MAX", "LD_PRELOAD", "PYTHONPATH"}


def test_the_tuned_peer_gets_its_allocator():
    found = launch.variables({}, contestants.CONFIGURATIONS["peft-best"].variables, num_threads=2)
    assert found.items() >= contestants.TUNED_ALLOCATOR.items()


def test_a_job_has_the_work_of_the_suite_and_the_settings_of_the_contestant(monkeypatch, tmp_path):
    monkeypatch.setattr(contestants, "faster_here", lambda: "bfloat16")
    suite = suites.SUITES["qlora"]
    found = launch.job_of(suite, "peft-qlora", tmp_path, [("timed", 8, 1)])
    assert (found.task, found.method, found.learning_rate) == ("causal", "lora", suite.learning_rate)
    assert (found.base_bits, found.rows_per_step, found.rows_per_pass, found.weights) == (4, 8, 1, "bfloat16")


def test_only_who_asks_for_a_gpu_sees_one():
    for name, configuration in contestants.CONFIGURATIONS.items():
        seen = launch.variables({"CUDA_VISIBLE_DEVICES": "3"}, configuration.variables, num_threads=1)["CUDA_VISIBLE_DEVICES"]
        assert (seen == "0") == configuration.on_gpu == name.endswith("-gpu")
        assert seen in ("", "0")


def test_a_newcomer_takes_a_whole_step_at_once(tmp_path):
    assert launch.job_of(suites.SUITES["lora"], "peft-default", tmp_path, []).rows_per_pass == 8
