"""Which runs of a comparison count as finished, and whose student a variant with train_as is measured with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dashdeploy.compare import compare


def test_another_train_as_leads_to_the_other_student(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = tmp_path / "x"
    for name in ("four", "six"):
        (root / name / "seed0" / "student").mkdir(parents=True)
        (root / name / "seed0" / "student" / "whose").write_text(name)
    folder = root / "two" / "seed0"
    folder.mkdir(parents=True)
    measured: list[str] = []

    def bench(run: Path, recipe: Any, *, fresh: bool) -> None:
        measured.append((run / "student" / "whose").read_text())

    monkeypatch.setattr(compare, "require", lambda *args, **more: None)
    monkeypatch.setattr(compare, "bench", bench)
    recipe: Any = None
    for name in ("four", "four", "six"):
        compare._measure(recipe, folder, root / name / "seed0" / "student", fresh=True)
    assert measured == ["four", "four", "six"]
    assert (folder / "student").readlink() == Path("../../six/seed0/student")
