import pytest

from benchmarks import machine

CPUINFO = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu avx2 avx512_bf16

processor\t: 1
model name\t: another
flags\t\t: fpu
"""


def test_the_first_processor_is_described():
    assert machine.parse_cpuinfo(CPUINFO) == ("Intel(R) Xeon(R) Platinum 8488C", ["fpu", "avx2", "avx512_bf16"])


def test_slug_is_fit_for_a_file_name():
    facts = machine.Machine("Intel(R) Xeon(R) Platinum 8488C", 2, 0, [], "", "")
    assert facts.slug == "2x-intel-xeon-platinum-8488c"


def test_busy_seconds_leave_idle_and_waiting_out(monkeypatch):
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 100)
    stat = "cpu  100 200 300 9000 8000 1 2 3 50 60\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert machine.busy_seconds(stat) == pytest.approx(6.06)


def test_no_commit_outside_a_checkout(tmp_path):
    assert machine.commit(tmp_path) == ""
