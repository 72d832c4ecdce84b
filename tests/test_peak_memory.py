"""The peak is of this process, not of the one that started it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from dashdeploy.peak_memory import peak_mib

MIB = 1 << 20


def test_the_peak_grows_by_what_is_held_and_stays_when_it_is_released() -> None:
    before = peak_mib()
    held = np.ones(int(before) * MIB + 64 * MIB, np.uint8)  # more than this process has ever held
    during = peak_mib()
    del held
    assert during >= before + 60
    assert peak_mib() >= during - 1  # the kernel counts pages in batches


def test_a_child_does_not_count_what_its_parent_holds() -> None:
    held = np.ones(256 * MIB, np.uint8)
    code = "from dashdeploy.peak_memory import peak_mib; print(peak_mib())"
    child = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert child < 200 < peak_mib() and held.size
