"""One kind of mutation: many cases from a strategy, each judged, all failures told at once, the counts kept."""

from __future__ import annotations

import collections
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine
from tests.torture.harness import Outcome

WHOLE = os.environ.get("DASHDEPLOY_TORTURE") == "1"
"""Whether all cases are tried (make torture) or a few of each kind."""
SEED = int(os.environ.get("DASHDEPLOY_TORTURE_SEED", "0"))
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "torture-mutations.json"
REFUSED, ACCEPTED = "refused", "accepted"


class Failed(Exception):
    """A case broke the promise."""


def verdict(outcome: Outcome) -> str:
    """ACCEPTED or REFUSED.

    Raises:
        Failed: it was neither.
    """
    if problem := outcome.problem():
        raise Failed(problem)
    return ACCEPTED if outcome.code == 0 else REFUSED


def campaign(
    kind: str, cases: st.SearchStrategy[Any], judge: Callable[[Any, Path], str], *, folder: Path, whole: int, few: int
) -> None:
    """Judge `whole` cases under `make torture`, else `few`.

    Args:
        judge: a case and an empty folder -> ACCEPTED or REFUSED; raises Failed.
        folder: where the empty folders are made.
    """
    tally: collections.Counter[str] = collections.Counter()
    failures: list[str] = []
    slowest = 0.0

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=whole if WHOLE else few,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(cases)
    def each(case: Any) -> None:
        nonlocal slowest
        place = folder / "case"
        place.mkdir()
        begin = time.monotonic()
        try:
            tally[judge(case, place)] += 1
        except Failed as failed:
            tally[str(failed).partition(":")[0]] += 1
            shown = repr(case)
            failures.append(f"{failed}\n    {shown if len(shown) < 700 else shown[:350] + ' … ' + shown[-350:]}")
            if dump := os.environ.get("DASHDEPLOY_TORTURE_FAILURES"):
                with Path(dump).open("a") as file:
                    file.write(f"[{kind}] {failed}\n    {shown}\n")
        finally:
            slowest = max(slowest, time.monotonic() - begin)
            shutil.rmtree(place)

    each()
    if WHOLE:
        keep(kind, {"cases": tally.total(), "slowest_s": round(slowest, 1), **dict(sorted(tally.items()))})
    if failures:
        told = f"{kind}: {len(failures)} of {tally.total()} cases failed (seed {SEED}):"
        pytest.fail("\n".join([told, *failures[:10]]), pytrace=False)


def keep(kind: str, counts: dict[str, Any]) -> None:
    """Put the counts of one kind into the committed results; several workers may do so at once."""
    with RESULTS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        kinds = {**old.get("kinds", {}), kind: counts}
        content = {
            "machine": machine(),
            "versions": {**stages.versions(), "hypothesis": hypothesis.__version__},
            "seed": SEED,
            "kinds": dict(sorted(kinds.items())),
        }
        RESULTS.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    RESULTS.with_suffix(".lock").unlink(missing_ok=True)
