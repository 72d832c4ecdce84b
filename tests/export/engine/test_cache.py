"""The cache of plans gives back what was stored, whole, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dashdeploy.errors import UserError
from dashdeploy.export.engine import cache as engine_cache
from dashdeploy.runtime import tensorrt_library
from dashdeploy.runtime.tensorrt_library import Here
from dashdeploy.target import Engine, Profile

DESCRIBED = {"flavour": "tensorrt_rtx", "build_s": 1.5}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    plan = tmp_path / "made.plan"
    plan.write_bytes(b"native code")
    engine_cache.store(tmp_path / "cache", "k", plan, DESCRIBED)
    return tmp_path / "cache"


def test_what_was_stored_comes_back(stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.plan"
    assert engine_cache.fetch(stored, "k", out) == DESCRIBED
    assert out.read_bytes() == b"native code"
    assert out.stat().st_mode & 0o777 == 0o644
    assert engine_cache.fetch(stored, "other", tmp_path / "no.plan") is None
    assert not (tmp_path / "no.plan").exists()
    assert sorted(p.suffix for p in stored.iterdir()) == [".json", ".plan"], "no leftovers"


def damage_plan(cache: Path) -> None:
    next(cache.glob("*.plan")).write_bytes(b"other code")


def lose_plan(cache: Path) -> None:
    next(cache.glob("*.plan")).unlink()


def cut_entry(cache: Path) -> None:
    path = cache / "k.json"
    path.write_bytes(path.read_bytes()[:40])


def change_description(cache: Path) -> None:
    path = cache / "k.json"
    path.write_text(path.read_text().replace("1.5", "2.5"))


def point_elsewhere(cache: Path) -> None:
    path = cache / "k.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "plan_sha256": "../../etc/passwd"}))


def empty_entry(cache: Path) -> None:
    (cache / "k.json").write_text("[]")


@pytest.mark.parametrize(
    "damage", [damage_plan, lose_plan, cut_entry, change_description, point_elsewhere, empty_entry]
)
def test_a_damaged_entry_is_removed_and_not_used(damage, stored: Path, tmp_path: Path) -> None:
    damage(stored)
    out = tmp_path / "out.plan"
    out.write_bytes(b"what was there")
    assert engine_cache.fetch(stored, "k", out) is None
    assert out.read_bytes() == b"what was there"
    assert not (stored / "k.json").exists()
    plan = tmp_path / "made.plan"
    engine_cache.store(stored, "k", plan, DESCRIBED)
    assert engine_cache.fetch(stored, "k", out) == DESCRIBED


def test_an_entry_of_another_key_is_not_used(stored: Path, tmp_path: Path) -> None:
    (stored / "k.json").rename(stored / "k2.json")
    assert engine_cache.fetch(stored, "k2", tmp_path / "out.plan") is None


def test_what_the_caller_does_not_accept_is_kept_but_not_copied(stored: Path, tmp_path: Path) -> None:
    def refuse(described: dict) -> None:
        raise UserError("wrong precision")

    with pytest.raises(UserError, match="wrong precision"):
        engine_cache.fetch(stored, "k", tmp_path / "out.plan", accept=refuse)
    assert not (tmp_path / "out.plan").exists()
    assert engine_cache.fetch(stored, "k", tmp_path / "out.plan") == DESCRIBED


def test_the_key_changes_with_everything_that_a_plan_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ada, ampere = ("tensorrt", "11.0", "13", "13.0", "L4", "8.9"), ("tensorrt", "11.0", "13", "13.0", "A40", "8.6")

    def key(onnx: str = "a", config: Engine | None = None, here: tuple = ada) -> str:
        monkeypatch.setattr(tensorrt_library, "facts", lambda flavour, device="cuda": Here(*here))
        return engine_cache.key(onnx, here[0], config or Engine())

    same = key()
    assert same == key() == key(config=Engine(timing_cache="elsewhere.cache")), "a timing cache changes no result"
    others = {
        key(onnx="b"),
        key(here=ampere),
        key(here=("tensorrt", "11.1", *ada[2:])),
        key(here=("tensorrt", "11.0", "13", "13.1", *ada[4:])),
        key(here=("tensorrt_rtx", *ada[1:])),
        key(config=Engine(profiles=(Profile(max=32),))),
        key(config=Engine(workspace_mib=64)),
        key(config=Engine(optimization_level=5)),
        key(config=Engine(version_compatible=True)),
        key(config=Engine(compute_capabilities=("8.9",))),
    }
    assert len(others | {same}) == 11
    monkeypatch.setattr(engine_cache, "FORMAT", 99)
    assert key() not in others | {same}
