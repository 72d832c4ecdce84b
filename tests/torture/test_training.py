"""What a training run keeps for later, broken: checkpoints, and banks of the teacher's outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from dashdeploy import stages
from tests.torture.campaign import ACCEPTED, REFUSED, Failed, campaign, verdict
from tests.torture.harness import call, command
from tests.torture.mutate import contents

pytestmark = pytest.mark.slow


def files_of(student: Path) -> dict[str, str]:
    """The student's weights by their hash."""
    files = json.loads((student / stages.MANIFEST).read_text())["files"]
    return {name: value for name, value in files.items() if name.endswith(".safetensors")}


@pytest.fixture(scope="module")
def started(whole_run: Path, tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mine.yaml, an interrupted training of it in runs/mine, and a finished one in whole/mine."""
    folder = tmp_path_factory.mktemp("started")
    tree = yaml.safe_load(tiny_text)
    tree |= {"name": "mine", "teacher": {"path": str(whole_run / "teacher")}}
    del tree["teach"]
    tree["distill"] |= {"steps": 8, "checkpoint_every": 4, "teacher_bank": 32}
    (folder / "mine.yaml").write_text(yaml.safe_dump(tree))
    whole = command(["distill", "mine.yaml", "--run-dir", "whole"], cwd=folder, limit_s=120)
    assert whole.code == 0, whole.stderr

    def interrupted() -> None:
        from dashdeploy.cli.app import main
        from dashdeploy.training import checkpoint

        save = checkpoint.save

        def save_and_stop(*args: object, **options: object) -> None:
            save(*args, **options)
            raise KeyboardInterrupt

        checkpoint.save = save_and_stop
        main(["distill", "mine.yaml", "--run-dir", "runs"])

    assert call(interrupted, cwd=folder, limit_s=120).code == 130
    return folder


@pytest.mark.parametrize("kind", ["checkpoint.pt", "teacher-bank-*.safetensors"], ids=["checkpoint", "bank"])
def test_what_training_keeps(kind: str, started: Path, tmp_path: Path) -> None:
    """A broken checkpoint is refused, and a broken bank made again: the student is the same to the bit, or none is."""
    (kept,) = [p for p in (started / "runs" / "mine").rglob(kind) if p.suffix in (".pt", ".safetensors")]
    content, expected = kept.read_bytes(), files_of(started / "whole" / "mine" / "student")

    def judge(made: bytes, folder: Path) -> str:
        shutil.copytree(started / "runs", folder / "runs")
        (folder / kept.relative_to(started)).write_bytes(made)
        outcome = command(
            ["distill", str(started / "mine.yaml"), "--run-dir", "runs"], cwd=folder, limit_s=60, memory_mib=3000
        )
        found, student = verdict(outcome), folder / "runs" / "mine" / "student"
        if found == ACCEPTED and files_of(student) != expected:
            raise Failed("silent acceptance: another student")
        if found == REFUSED and student.exists():
            raise Failed("left behind: a student")
        return found

    campaign(
        f"{kind.partition('*')[0].rstrip('-')}s", contents(content, head=3000), judge, folder=tmp_path, whole=60, few=3
    )
