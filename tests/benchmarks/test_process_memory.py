import sys

import pytest

from benchmarks import process_memory

STATUS = "VmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"


def test_fields_are_in_bytes():
    assert process_memory.status_bytes("VmHWM", STATUS) == 2 * 2**20


def test_an_unknown_field_is_an_error():
    with pytest.raises(KeyError, match="needs Linux"):
        process_memory.status_bytes("VmPeak", STATUS)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_peak_is_forgotten_on_reset():
    size = 64 * 2**20
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    peak = process_memory.status_bytes("VmHWM")
    del block
    process_memory.reset_peak()
    assert process_memory.status_bytes("VmHWM") < peak - size / 2
