"""Commands that are killed at every change of the file system, at any time, or run beside another; what then comes out.

A program of its own: it imports what the commands need and forks one child for each of them, so that a child starts at
once. python -m tests.torture.killing FOLDER --points 3 --random 10 --pairs 5 prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.grounds import COMMANDS, Grounds, leftovers, warm

SEED = 0


@dataclass
class Tally:
    """points: changes of the file system that a command makes. wrong: what came out otherwise than it should."""

    points: int = 0
    kills: int = 0
    identical: int = 0
    wrong: list[str] = field(default_factory=list)


def _differing(found: Any, expected: Any, at: str = "") -> list[str]:
    """The places where the two differ, with their values where those are short."""
    if found == expected:
        return []
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [*expected, *(key for key in found if key not in expected)]
        return [text for key in keys for text in _differing(found.get(key), expected.get(key), f"{at} {key}")]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return [text for i, pair in pairs for text in _differing(*pair, f"{at} {i}")]
    return [f"{at} {str(found)[:80]} for {str(expected)[:80]}"]


def judge(grounds: Grounds, name: str, expected: dict[str, Any], tally: Tally, at: str) -> None:
    """Carry out the command again after a kill, and compare what is there with what an undisturbed one left."""
    code, said = grounds.end(grounds.start(COMMANDS[name].arguments))
    if name in ("cp", "adopt") and code == 2 and (" exists. " in said or ": is there already" in said):
        code = 0  # the first had ended but for its exit
    found = grounds.state()
    if code != 0:
        tally.wrong.append(f"{name}, killed {at}: exit code {code}: {said[-600:]}")
    elif left := leftovers(grounds.here):
        tally.wrong.append(f"{name}, killed {at}: left {', '.join(left)}")
    elif found != expected:
        tally.wrong.append(f"{name}, killed {at}: other {'; '.join(_differing(found, expected))}")
    else:
        tally.identical += 1


@functools.cache
def undisturbed(grounds: Grounds, name: str) -> tuple[dict[str, Any], list[str], float]:
    """(what the command leaves, the changes that it makes, its time in s)."""
    grounds.begin(COMMANDS[name].after)
    events = grounds.scratch / "events"
    events.unlink(missing_ok=True)
    began = time.monotonic()
    code, said = grounds.end(grounds.start(COMMANDS[name].arguments, events=events))
    assert code == 0, said
    assert not leftovers(grounds.here)
    return grounds.state(), events.read_text().splitlines(), time.monotonic() - began


def crash_points(grounds: Grounds, name: str, *, at_most: int | None, share: tuple[int, int] = (1, 1)) -> Tally:
    """Kill the command before each change of the file system, or before `at_most` of them, chosen evenly.

    Args:
        share: (i, n): only every n-th of these, beginning with the i-th (from 1).
    """
    expected, changes, _ = undisturbed(grounds, name)
    tally = Tally(points=len(changes))
    points: Sequence[int] = range(len(changes))
    if at_most is not None and at_most < len(changes):
        points = [round((i + 0.5) * len(changes) / at_most - 0.5) for i in range(at_most)]
    for point in points[share[0] - 1 :: share[1]]:
        grounds.begin(COMMANDS[name].after)
        code, said = grounds.end(grounds.start(COMMANDS[name].arguments, kill_at=point))
        if code != -signal.SIGKILL:
            tally.wrong.append(f"{name}: made no change {point}, exit code {code}: {said[-300:]}")
            continue
        tally.kills += 1
        judge(grounds, name, expected, tally, f"before {point}, {changes[point]}")
    return tally


def random_kills(grounds: Grounds, names: Sequence[str], count: int, *, seed: int) -> Tally:
    """Kill one of these commands, chosen at random, at a random time, `count` times."""
    tally, draw = Tally(), random.Random(seed)
    while tally.kills < count:
        name = draw.choice(names)
        expected, _, seconds = undisturbed(grounds, name)
        grounds.begin(COMMANDS[name].after)
        child, after = grounds.start(COMMANDS[name].arguments), draw.uniform(0, seconds)
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        code, _ = grounds.end(child)
        if code == -signal.SIGKILL:  # else it had ended
            tally.kills += 1
            judge(grounds, name, expected, tally, f"after {after:.3f} s")
    return tally


BESIDE = ("teach", "teach again", "distill", "distill again", "export", "export again", "package", "bench", "run")


def two_at_once(grounds: Grounds, *, at_most: int | None, seed: int) -> Tally:
    """Carry out every two commands at the same time on one run folder, then the whole run: it must be right.

    Each must end well, or with one line and exit code 2.
    """
    after = ("teach", "distill", "export")
    expected = undisturbed(grounds, "run")[0]
    pairs = [(a, b, begin) for a, b in itertools.combinations_with_replacement(BESIDE, 2) for begin in ((), after)]
    draw = random.Random(seed)
    tried = pairs if at_most is None else draw.sample(pairs, at_most)
    tally = Tally(points=len(tried))
    for a, b, begin in tried:
        grounds.begin(begin)
        first = grounds.start(COMMANDS[a].arguments)
        time.sleep(draw.uniform(0, 0.5))
        second = grounds.start(COMMANDS[b].arguments)
        ended = [(name, *grounds.end(child)) for name, child in ((a, first), (b, second))]
        for name, code, said in ended:
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            if "Traceback" in said or code not in (0, 2) or (code == 2 and len(errors) != 1):
                tally.wrong.append(f"{a} beside {b}: {name} ended with {code}: {said[-600:]}")
        code, said = grounds.end(grounds.start(COMMANDS["run"].arguments))
        found = {name: value for name, value in grounds.state().items() if name in expected}
        if code != 0 or found != expected or leftovers(grounds.here):
            other = "; ".join(_differing(found, expected))
            tally.wrong.append(f"{a} beside {b}: then run ended with {code}: {said[-300:]}; other {other}")
        else:
            tally.identical += 1
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="An empty folder to work in.")
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS), help="Which to kill.")
    parser.add_argument("--points", type=int, default=None, help="Crash points of each command. Default: all.")
    parser.add_argument("--share", default="1/1", help="I/N: every N-th of them, to divide them among processes.")
    parser.add_argument("--random", type=int, default=0, help="Kills at random times.")
    parser.add_argument("--pairs", type=int, default=0, help="Pairs of commands at once; -1: all.")
    options = parser.parse_args()
    first, count = map(int, options.share.split("/"))
    warm()
    grounds = Grounds(options.folder.resolve())
    figures: dict[str, Any] = {"seed": SEED, "crash_points": {}}
    for name in options.commands:
        figures["crash_points"][name] = asdict(
            crash_points(grounds, name, at_most=options.points, share=(first, count))
        )
        print(name, figures["crash_points"][name], file=sys.stderr, flush=True)
    if options.random:
        figures["random"] = asdict(random_kills(grounds, options.commands, options.random, seed=SEED))
    if options.pairs:
        at_most = None if options.pairs < 0 else options.pairs
        figures["two_at_once"] = asdict(two_at_once(grounds, at_most=at_most, seed=SEED))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
