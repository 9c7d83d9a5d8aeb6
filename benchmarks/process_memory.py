"""Resident memory of this process as the Linux kernel counts it, and its peak since the last reset."""

from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): sets VmHWM back to the present VmRSS


def status_bytes(field: str, status: str | None = None) -> int:
    """A field of `/proc/self/status` in bytes, such as `VmRSS`, `VmHWM`, `RssAnon` or `RssFile`.

    Raises:
        KeyError: The kernel does not report the field.
    """
    for line in (STATUS.read_text() if status is None else status).splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    raise KeyError(f"{field} is not in {STATUS}; the benchmark needs Linux.")


def reset_peak() -> None:
    """Make `VmHWM` forget every earlier peak."""
    CLEAR_REFS.write_text(RESET_PEAK)
