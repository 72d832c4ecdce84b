"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """This machine: CPU name, usable cores, memory in GiB, platform, and GPU, or None."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "platform": platform.platform(),
        "gpu": gpu,
    }


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    # Virtual machines often hide the model's name, so the vector units are named.
    units = [u for u in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if u in fields.get("flags", "").split()]
    return f"{name} ({', '.join(units)})" if units else name
