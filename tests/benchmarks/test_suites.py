import pytest

from benchmarks import contestants, suites


@pytest.mark.parametrize("suite", suites.SUITES.values(), ids=list(suites.SUITES))
def test_every_suite_has_a_plain_peer_for_reference_and_ourselves(suite: suites.Suite):
    reference = suite.contestants[suite.reference]
    assert reference.module != "tunesmith"
    assert reference.order == "given"
    assert {suite.contestants[name].base_bits for name in suite.usual} == {reference.base_bits}
    assert any(suite.contestants[name].module == "tunesmith" for name in suite.usual)


@pytest.mark.parametrize("suite", suites.SUITES.values(), ids=list(suites.SUITES))
def test_rows_make_whole_steps(suite: suites.Suite):
    work = suite.work
    assert work.num_check == work.rows_per_step
    assert work.num_warmup % work.rows_per_step == 0
    assert work.num_timed % work.rows_per_step == 0


def test_everyone_takes_part_somewhere():
    assert {name for suite in suites.SUITES.values() for name in suite.contestants} == contestants.CONFIGURATIONS.keys()


def test_contestants_are_chosen_by_name():
    lora = suites.SUITES["lora"]
    assert lora.chosen(None) == list(lora.usual)
    assert lora.chosen("all") == list(lora.contestants)
    assert lora.chosen("tunesmith,peft-2x4") == ["tunesmith", "peft-2x4"]


def test_a_contestant_of_another_suite_is_refused_by_name():
    with pytest.raises(ValueError, match="'lora' has no contestant 'tunesmith-qlora'; it has peft-default, peft-best, "):
        suites.SUITES["lora"].chosen("tunesmith,tunesmith-qlora")
