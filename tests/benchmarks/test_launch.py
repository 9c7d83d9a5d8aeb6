import pytest

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


def test_usual_contestants_exist_and_the_references_are_plain():
    assert set(contestants.USUAL) <= contestants.CONFIGURATIONS.keys()
    reference = contestants.CONFIGURATIONS[contestants.reference_of(contestants.USUAL)]
    assert (reference.precision, reference.order, reference.variables) == ("float32", "given", {})
    for bits, name in contestants.REFERENCES.items():
        assert contestants.CONFIGURATIONS[name].base_bits == bits
        assert contestants.CONFIGURATIONS[name].module == "peft"


def test_losses_over_different_bases_are_not_compared():
    assert contestants.reference_of(["tunesmith-qlora"]) == "peft-qlora"
    with pytest.raises(ValueError, match="measure them apart"):
        contestants.reference_of(["tunesmith", "tunesmith-qlora"])


def test_only_who_asks_for_a_gpu_sees_one():
    for name, configuration in contestants.CONFIGURATIONS.items():
        seen = launch.variables({"CUDA_VISIBLE_DEVICES": "3"}, configuration.variables, num_threads=1)["CUDA_VISIBLE_DEVICES"]
        assert (seen == "0") == configuration.on_gpu == name.endswith("-gpu")
        assert seen in ("", "0")
