"""The machine that a run is on, for its record."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

import torch

from tunesmith.kernels import by_device


def facts(device: torch.device) -> dict[str, str]:
    """Processor, the cores of it that this process may use, memory, accelerator, and what kernels compute."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else "none",
        "kernels": by_device.description(device.type),
    }


def _processor() -> str:
    """The processor's name; where the system does not tell it, its architecture."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()
