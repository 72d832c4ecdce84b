"""How much memory this machine has, and the most that this process has held."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def machine_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_mib() -> float:
    """Largest resident memory (MiB) of this process since it started, its libraries included.

    Linux's ru_maxrss starts with what the parent held when it started the child, so VmHWM is read where there is one.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
