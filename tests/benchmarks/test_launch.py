from benchmarks import contestants, launch


def test_what_changes_speed_is_not_inherited():
    inherited = {"PATH": "/bin", "OMP_NUM_THREADS": "9", "MALLOC_ARENA_MAX": "1", "LD_PRELOAD": "x", "PYTHONPATH": "y"}
    found = launch.variables(inherited, contestants.CONFIGURATIONS["peft-default"].variables, num_threads=3)
    assert found["PATH"] == "/bin"
    assert found["OMP_NUM_THREADS"] == "3"
    assert not found.keys() & {"MALLOC_ARENA_MAX", "LD_PRELOAD", "PYTHONPATH"}


def test_the_tuned_peer_gets_its_allocator():
    found = launch.variables({}, contestants.CONFIGURATIONS["peft-best"].variables, num_threads=2)
    assert found.items() >= contestants.TUNED_ALLOCATOR.items()


def test_usual_contestants_exist_and_the_reference_is_plain():
    assert set(contestants.USUAL) <= contestants.CONFIGURATIONS.keys()
    reference = contestants.CONFIGURATIONS[contestants.reference_of(contestants.USUAL)]
    assert (reference.precision, reference.order, reference.variables) == ("float32", "given", {})
