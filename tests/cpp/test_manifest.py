"""The manifest's reader in C++: it refuses what Python's reader refuses, for every property of the JSON Schema.

The manifests come from exporters/cpp/fuzz/corpus.py. Each lies sealed in a folder without the files that it lists, so
that one which is taken ends in "no such file".
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import seal

from dashdeploy import manifest as manifests
from dashdeploy import stages
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import GuidanceInterval, Tag
from tests.manifests import CORPUS, ONLY_IN_PYTHON, for_tensorrt, is_read, place_of, schema, shortened, with_guidance
from tests.manifests import mutations as manifests_of

pytestmark = pytest.mark.slow


class Judged(NamedTuple):
    """A mutation, and what each reader says of it; None: nothing."""

    place: str
    kind: str
    cpp: str | None
    python: str | None


@pytest.fixture(scope="module")
def valid(artifact: Path) -> dict[str, Any]:
    """The artifact's manifest, short."""
    return shortened(json.loads((artifact / stages.MANIFEST).read_text()))


def python_says(folder: Path) -> str | None:
    try:
        manifests.read(stages.Stage(folder, stages.read_manifest(folder)))
    except UserError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def judged(
    valid: dict[str, Any],
    verdicts_of: Callable[[Sequence[Path]], list[list[str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Judged]:
    mutations = list(manifests_of(valid))
    top = tmp_path_factory.mktemp("manifests")
    folders = [top / str(number) for number in range(len(mutations))]
    for folder, mutation in zip(folders, mutations, strict=True):
        folder.mkdir()
        seal(folder, mutation.text.encode())
    judged = []
    for folder, mutation, (status, text) in zip(folders, mutations, verdicts_of(folders), strict=True):
        taken = status == "not found" and text.endswith(": no such file")
        assert taken or status in ("damaged", "unsupported"), (mutation.path, mutation.kind, status, text)
        cpp = None if taken else f"{status}: {text}".replace(str(folder), "")
        judged.append(Judged(place_of(mutation.path), mutation.kind, cpp, python_says(folder)))
    return judged


def test_the_valid_manifests_are_taken_by_both(valid: dict[str, Any], verdicts_of, tmp_path: Path) -> None:
    for name, manifest in {
        "plain": valid,
        "tag": with_guidance(valid, Tag()),
        "interval": with_guidance(valid, GuidanceInterval()),
        "tensorrt": for_tensorrt(valid),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        seal(folder, json.dumps(manifest).encode())
        assert python_says(folder) is None
        assert verdicts_of([folder])[0][0] == "not found"


def test_both_readers_refuse_the_same_manifests(judged: list[Judged]) -> None:
    differ = [
        each
        for each in judged
        if is_read(each.place)
        and (each.cpp is None) != (each.python is None)
        and (each.place, each.kind) not in ONLY_IN_PYTHON
    ]
    assert not differ, "\n".join(map(str, differ))


def test_what_cpp_does_not_read_it_does_not_refuse(judged: list[Judged]) -> None:
    refused = [e for e in judged if not is_read(e.place) and e.cpp is not None and "not JSON" not in e.cpp]
    assert not refused, "\n".join(map(str, refused))


def test_cpp_refuses_something_at_every_place_that_it_reads(judged: list[Judged]) -> None:
    refused = {each.place for each in judged if each.cpp is not None and "not JSON" not in each.cpp}
    assert {each.place for each in judged if is_read(each.place)} == refused


def test_a_reason_is_one_line(judged: list[Judged]) -> None:
    for each in judged:
        assert "\n" not in (each.python or "") and "\n" not in (each.cpp or ""), each


def test_a_message_names_the_key(judged: list[Judged]) -> None:
    for each in judged:
        if each.cpp is not None and "not JSON" not in each.cpp and each.kind in ("as NoneType", "missing"):
            last = each.place.removesuffix(".*").rsplit(".", 1)[-1]
            assert last in each.cpp, each


def test_the_generator_writes_its_corpus_by_itself(valid: dict[str, Any], tmp_path: Path) -> None:
    for name, value in {"manifest": valid, "schema": schema()}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    arguments = (tmp_path / "manifest.json", tmp_path / "schema.json", tmp_path / "corpus")
    subprocess.run([sys.executable, "-I", CORPUS, *arguments], check=True)
    assert len(list((tmp_path / "corpus").glob("*.json"))) > 1000
    assert json.loads((tmp_path / "corpus" / "valid.json").read_text()) == valid
