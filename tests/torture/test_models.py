"""Models that are broken: manifests, configurations, weights and graphs, opened by `sample`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from dashdeploy import stages
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.recipe.schema import NoiseSchedule, TimestepWeights
from dashdeploy.training.timestep_weights import transfer
from tests.torture.campaign import ACCEPTED, REFUSED, Failed, campaign, verdict
from tests.torture.harness import Outcome, call, command
from tests.torture.mutate import contents, safetensors, trees

pytestmark = pytest.mark.slow
PARTS = ["teacher", "student", "artifacts/onnx-cpu"]
Copy = Callable[[str, Path], Path]


def drawn(model: Path, folder: Path) -> tuple[Outcome, bytes]:
    """`sample` of a model with its few images; nothing but a whole PNG may be left."""
    args = ["sample", str(model), "--labels=0,3", "--columns=1", "--steps=2", "--scale=1", "--threads=1", "-o", "x.png"]
    outcome = command([*args, "--guidance=2"], cwd=folder)
    png = folder / "x.png"
    if outcome.code and png.exists():
        raise Failed("left behind: x.png")
    return outcome, png.read_bytes() if png.exists() else b""


def signed(folder: Path, manifest: bytes) -> None:
    """A manifest with a sidecar that vouches for it, so that its content itself is reached."""
    (folder / stages.MANIFEST).write_bytes(manifest)
    (folder / stages.SIDECAR).write_bytes(stages.sidecar_text(folder / stages.MANIFEST))


@pytest.mark.parametrize("part", ["artifacts/onnx-cpu", "student", "teacher"])
def test_any_changed_byte_of_a_stage_is_refused(part: str, copied: Copy, whole_run: Path, tmp_path: Path) -> None:
    """Stages are vouched for: whatever of them changes, no other image is drawn."""
    names = sorted(str(p.relative_to(whole_run / part)) for p in (whole_run / part).rglob("*") if p.is_file())

    def changes(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
        return st.tuples(st.just(name), contents((whole_run / part / name).read_bytes()))

    def judge(case: tuple[str, bytes], folder: Path) -> str:
        name, content = case
        model = copied(part, folder)
        if (model / name).read_bytes() == content:
            return ACCEPTED
        (model / name).write_bytes(content)
        outcome, _ = drawn(model, folder)
        if verdict(outcome) == ACCEPTED:
            raise Failed(f"silent acceptance: of a changed {name}")
        return REFUSED

    cases = st.sampled_from(names).flatmap(changes)
    campaign(f"bytes of the stage {part}", cases, judge, folder=tmp_path, whole=120, few=6)


@pytest.mark.parametrize("part", ["artifacts/onnx-cpu", "student"])
def test_signed_manifests(part: str, copied: Copy, whole_run: Path, tmp_path: Path) -> None:
    """A manifest that lies, with the right hash beside it."""
    tree = json.loads((whole_run / part / stages.MANIFEST).read_text())

    def judge(manifest: object, folder: Path) -> str:
        model = copied(part, folder)
        signed(model, json.dumps(manifest).encode())
        return verdict(drawn(model, folder)[0])

    campaign(f"signed manifests of {part}", trees(tree), judge, folder=tmp_path, whole=250, few=12)


def test_runs_with_signed_manifests_are_shown(whole_run: Path, tmp_path: Path) -> None:
    """`show` of a run, of its part and `ls` read manifests, and nothing else."""
    parts = {part: json.loads((whole_run / part / stages.MANIFEST).read_text()) for part in PARTS}

    def judge(case: tuple[str, bool, object], folder: Path) -> str:
        part, is_signed, manifest = case
        shutil.copytree(whole_run, folder / "runs" / "mine")
        changed = json.dumps(manifest).encode()
        if is_signed:
            signed(folder / "runs" / "mine" / part, changed)
        else:
            (folder / "runs" / "mine" / part / stages.MANIFEST).write_bytes(changed)
        calls = (["show", "runs/mine"], ["show", f"runs/mine/{part}"], ["ls", "runs"], ["show", "runs/mine", "--json"])
        verdicts = [verdict(command(args, cwd=folder)) for args in calls]
        return REFUSED if REFUSED in verdicts else ACCEPTED

    cases = st.sampled_from(PARTS).flatmap(lambda part: st.tuples(st.just(part), st.booleans(), trees(parts[part])))
    campaign("manifests, shown", cases, judge, folder=tmp_path, whole=150, few=5)


def test_recipes_in_signed_manifests(copied: Copy, whole_run: Path, tmp_path: Path) -> None:
    """`export` and `bench` read the recipe in the student's manifest."""
    tree = json.loads((whole_run / "student" / stages.MANIFEST).read_text())

    def judge(case: tuple[str, object], folder: Path) -> str:
        name, recipe = case
        (folder / "run").mkdir()
        student = copied("student", folder / "run")
        figures = {**tree["figures"], "teacher": "nowhere"}
        signed(student, json.dumps({**tree, "recipe": recipe, "figures": figures}).encode())
        return verdict(command([name, "run", *(["--to", "none"] if name == "export" else [])], cwd=folder))

    # Of an export the recipe alone is read before the unknown target; a bench would take long, so it lacks a teacher.
    cases = st.tuples(st.sampled_from(["export", "bench"]), trees({**tree["recipe"], "teacher": {"path": "nowhere"}}))
    campaign("recipes in manifests", cases, judge, folder=tmp_path, whole=120, few=6)


def foreign(copied: Copy, folder: Path) -> Path:
    """The teacher as others would give it: a folder in diffusers format without a manifest."""
    model = copied("teacher", folder)
    for name in (stages.MANIFEST, stages.SIDECAR):
        (model / name).unlink()
    return model


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_configurations(name: str, copied: Copy, whole_run: Path, tmp_path: Path) -> None:
    text = (whole_run / "teacher" / name).read_bytes()

    def judge(content: bytes, folder: Path) -> str:
        model = foreign(copied, folder)
        (model / name).write_bytes(content)
        return verdict(drawn(model, folder)[0])

    cases = trees(json.loads(text)).map(lambda tree: json.dumps(tree).encode()) | contents(text, head=len(text))
    campaign(f"teacher: {name}", cases, judge, folder=tmp_path, whole=250, few=12)


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "timestep_weights.safetensors"], ids=["weights", "lambda"]
)
def test_safetensors(name: str, copied: Copy, whole_run: Path, tmp_path: Path) -> None:
    content = (whole_run / "teacher" / name).read_bytes()

    def judge(made: bytes, folder: Path) -> str:
        model = foreign(copied, folder)
        (model / name).write_bytes(made)
        if name.startswith("timestep_weights"):  # `sample` does not read λ; training does
            return verdict(call(lambda: transfer(TimestepWeights(kind="tirt"), schedule, model), cwd=folder))
        return verdict(drawn(model, folder)[0])

    schedule = schedules.from_recipe(NoiseSchedule())
    campaign(f"teacher: {name}", safetensors(content), judge, folder=tmp_path, whole=150, few=8)


def test_onnx_files(whole_run: Path, tmp_path: Path) -> None:
    """A file without a manifest beside it: nothing vouches for it, and it is read all the same."""
    content = (whole_run / "artifacts" / "onnx-cpu" / "guided.onnx").read_bytes()

    def judge(made: bytes, folder: Path) -> str:
        (folder / "mine.onnx").write_bytes(made)
        outcome = command(["sample", "mine.onnx", "--labels=0", "--columns=1", "--steps=2", "-o", "x.png"], cwd=folder)
        return verdict(outcome)

    campaign("onnx files", contents(content, head=4000), judge, folder=tmp_path, whole=150, few=8)


def test_links_that_lead_nowhere_or_in_a_circle(whole_run: Path, tmp_path: Path, copied: Copy) -> None:
    """Every file of a model as a link to itself, to nothing, and as a folder."""

    def judge(case: tuple[str, str, str], folder: Path) -> str:
        part, name, how = case
        model = copied(part, folder)
        if not (model / name).exists():
            return REFUSED
        (model / name).unlink()
        if how == "folder":
            (model / name).mkdir()
        else:
            (model / name).symlink_to({"circle": name.split("/")[-1], "nothing": "nowhere", "device": "/dev/null"}[how])
        found = verdict(drawn(model, folder)[0])
        if found == ACCEPTED:
            raise Failed(f"silent acceptance: {name} as a link to {how}")
        return found

    files = ["manifest.json", "manifest.json.sha256", "guided.onnx", "unet/config.json", "metrics.jsonl"]
    files += ["unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
    parts = st.sampled_from(["student", "artifacts/onnx-cpu"])
    cases = st.tuples(parts, st.sampled_from(files), st.sampled_from(["circle", "nothing", "device", "folder"]))
    campaign("links and folders in place of files", cases, judge, folder=tmp_path, whole=60, few=4)
