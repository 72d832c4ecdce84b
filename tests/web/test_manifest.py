"""The manifest's reader in TypeScript: it refuses what Python's reader refuses, and its messages name the key."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dashdeploy import manifest as manifests
from dashdeploy import stages
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import GuidanceInterval, Tag
from tests.manifests import (
    ONLY_IN_PYTHON,
    for_tensorrt,
    is_read,
    mutations,
    of_few_steps,
    of_latents,
    place_of,
    shortened,
    with_guidance,
)
from tests.web import browsing
from tests.web.conftest import DIST

pytestmark = pytest.mark.slow

Verdict = tuple[str, str] | None


class Judged(NamedTuple):
    """A mutation and what TypeScript says of it; None: nothing."""

    place: str
    kind: str
    text: bytes
    verdict: Verdict


def verdicts(texts: Sequence[bytes]) -> list[Verdict]:
    """Of many manifests, by one process."""
    script = Path(__file__).with_name("verdicts.mjs")
    asked = json.dumps([base64.b64encode(text).decode() for text in texts])
    command = [browsing.node(), str(script), str(DIST)]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    given: list[Verdict] = json.loads(done.stdout)
    assert len(given) == len(texts)
    return given


def python_takes(text: bytes) -> bool:
    """Whether Python's reader takes it: the format's number is looked at before the contract."""
    try:
        held = json.loads(text)
        number = held["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    try:
        return type(number) is int and number == stages.FORMAT and bool(manifests.parse(json.dumps(held), source="m"))
    except UserError:
        return False


@pytest.fixture(scope="module")
def valid(tiny_run: Path) -> dict[str, Any]:
    """The artifact's manifest, short."""
    return shortened(json.loads((tiny_run / "artifacts" / "onnx-cpu" / stages.MANIFEST).read_text()))


@pytest.fixture(scope="module")
def judged(valid: dict[str, Any]) -> list[Judged]:
    changed = [*mutations(valid), *mutations(of_few_steps(valid))]
    texts = [mutation.text.encode() for mutation in changed]
    return [
        Judged(place_of(mutation.path), mutation.kind, text, verdict)
        for mutation, text, verdict in zip(changed, texts, verdicts(texts), strict=True)
    ]


def test_the_valid_manifests_are_taken(valid: dict[str, Any]) -> None:
    kinds = {
        **{"plain": valid, "tag": with_guidance(valid, Tag()), "interval": with_guidance(valid, GuidanceInterval())},
        **{"few": of_few_steps(valid), "latents": of_latents(valid), "tensorrt": for_tensorrt(valid)},
    }
    assert verdicts([json.dumps(manifest).encode() for manifest in kinds.values()]) == [None] * len(kinds)


def test_both_readers_refuse_the_same_manifests(judged: list[Judged]) -> None:
    read = [each for each in judged if is_read(each.place) and (each.place, each.kind) not in ONLY_IN_PYTHON]
    differ = [each for each in read if (each.verdict is None) != python_takes(each.text)]
    assert len(read) > 5000 and not differ, "\n".join(f"{e.place} {e.kind} {e.verdict}" for e in differ)


def test_what_the_page_does_not_read_it_does_not_refuse(judged: list[Judged]) -> None:
    refused = [e for e in judged if not is_read(e.place) and e.verdict is not None and "not JSON" not in e.verdict[1]]
    assert not refused, "\n".join(map(str, refused))


def test_it_refuses_something_at_every_place_that_it_reads(judged: list[Judged]) -> None:
    refused = {each.place for each in judged if each.verdict is not None and "not JSON" not in each.verdict[1]}
    assert {each.place for each in judged if is_read(each.place)} == refused


def test_a_reason_is_one_line_of_a_known_status_that_names_the_key(judged: list[Judged]) -> None:
    for place, kind, _, verdict in judged:
        if verdict is None:
            continue
        status, text = verdict
        assert status in ("damaged", "unsupported") and "\n" not in text, (place, kind, verdict)
        if "not JSON" not in text and kind in ("as NoneType", "missing"):
            assert place.rstrip(".*").rsplit(".", 1)[-1] in text, (place, kind, verdict)
