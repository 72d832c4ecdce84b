"""Every command, killed before any change of the file system or at any time, or run beside another, comes out right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "torture-kills.json"


def campaign(folder: Path, *options: str) -> dict[str, Any]:
    """The figures of tests/torture/killing.py."""
    command = [sys.executable, "-m", "tests.torture.killing", str(folder / "grounds"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def tallies(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """All tallies of kills."""
    return [*figures["crash_points"].values(), *([figures["random"]] if "random" in figures else [])]


def judged(figures: dict[str, Any]) -> int:
    """The number of kills, all of which came out right."""
    wrong = [line for tally in [*tallies(figures), figures["two_at_once"]] for line in tally["wrong"]]
    assert not wrong, "\n".join(wrong)
    kills = sum(tally["kills"] for tally in tallies(figures))
    assert kills == sum(tally["identical"] for tally in tallies(figures))
    return kills


@pytest.mark.slow
def test_a_few_kills_and_pairs_of_commands_come_out_right(tmp_path: Path) -> None:
    few = ("distill again", "export again", "adopt", "cp")
    figures = campaign(tmp_path, "--commands", *few, "--points", "2", "--random", "2", "--pairs", "1")
    assert judged(figures) == 2 * len(few) + 2


@pytest.mark.torture
@pytest.mark.skipif("DASHDEPLOY_TORTURE" not in os.environ, reason="part of the whole campaign: make torture")
@pytest.mark.timeout(7200)
def test_every_kill_and_every_pair_of_commands_comes_out_right(tmp_path: Path) -> None:
    figures = campaign(tmp_path, "--random", "100", "--pairs", "-1")
    assert judged(figures) >= 250
    content = {**figures, "machine": machine(), "versions": stages.versions()}
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
