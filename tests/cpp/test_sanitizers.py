"""The same images under AddressSanitizer and UndefinedBehaviorSanitizer, without a leak, from several threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from building import run

pytestmark = pytest.mark.slow

CASES = {
    "one": ("--labels", "3", "-w", "2.5"),
    "three, interval": ("--labels", "0-2", "-w", "3@0.2-0.8"),
    "parts, tag": ("--labels", "0-9", "--columns", "2", "-w", "tag", "--max-batch", "4"),
    "threads": ("--labels", "0-9", "-w", "3", "--concurrency", "4", "--threads", "2"),
    "progress": ("--labels", "0-4", "--threads", "2", "--progress"),
}


@pytest.mark.parametrize("name", CASES)
def test_images_are_the_same_and_nothing_leaks(
    name: str, released: Path, sanitized: Path, artifact: Path, tmp_path: Path, sanitizer_environment
) -> None:
    images = []
    for program in (released / "dashdeploy-sample", sanitized / "sample"):
        out = tmp_path / f"{program.name}.f32"
        command = (program, artifact, *CASES[name], "--steps", "50", "--seed", "7", "--out", out)
        done = run(*command, env=sanitizer_environment)
        assert done.returncode == 0, done.stderr
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr
        images.append(np.fromfile(out, np.float32))
    np.testing.assert_allclose(images[0], images[1], rtol=0, atol=1e-4)


def test_the_sanitizers_are_on(sanitized: Path) -> None:
    program = (sanitized / "verdicts").read_bytes()
    assert b"__asan_init" in program and b"__ubsan_handle" in program
