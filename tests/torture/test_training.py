"""What a training run keeps for later, broken: checkpoints, and banks of the teacher's outputs."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import strategies as st

from dashdeploy import stages
from tests.teachers.paper_unet import PaperUNet, checkpoint
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

    name = "checkpoints" if kind.startswith("checkpoint") else "teacher banks"
    campaign(name, contents(content, head=3000), judge, folder=tmp_path, whole=60, few=3)


def parts_of(tree: object, place: tuple = ()) -> Iterator[tuple]:
    """Every key of nested dicts, as a place."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (*place, key)
            yield from parts_of(value, (*place, key))


def test_checkpoints_of_the_papers_code(tmp_path: Path, warm: None) -> None:
    """`adopt` of a broken file writes no folder; of one whose tensors are strange it writes none or a whole one."""
    network = PaperUNet(channels=(32, 64), blocks=1, attention_levels=(1,), classes=2)
    whole = checkpoint(network, lam=torch.zeros(1000))
    places = [p for p in parts_of(whole) if len(p) < 3 or p[-1] in ("conv_in.weight", "class_embed.weight")]
    strange = [None, 3, "x", torch.zeros(0), torch.zeros(2, 2), torch.full((1000,), torch.nan), {}, [1]]

    def packed(content: object) -> bytes:
        torch.save(content, buffer := io.BytesIO())
        return buffer.getvalue()

    def changed(place: tuple, value: object) -> bytes:
        tree = copy.deepcopy(whole)
        section = tree
        for key in place[:-1]:
            section = section[key]
        section[place[-1]] = value
        return packed(tree)

    def judge(made: bytes, folder: Path) -> str:
        (folder / "x.pth").write_bytes(made)
        found = verdict(command(["adopt", "x.pth", "teacher", "--image-size", "8"], cwd=folder))
        names = {path.name for path in folder.iterdir()}
        if names != {"x.pth", *(["teacher"] if found == ACCEPTED else [])}:
            raise Failed(f"left behind: {names}")
        return found

    cases = st.builds(changed, st.sampled_from(places), st.sampled_from(strange)) | contents(packed(whole), head=2000)
    campaign("checkpoints of the paper's code", cases, judge, folder=tmp_path, whole=80, few=3)
