"""What a user writes, broken: recipes, targets, comparisons, and the command line itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from dashdeploy.recipe.schema import Recipe
from dashdeploy.target import Target
from tests.torture.campaign import ACCEPTED, Failed, campaign, verdict
from tests.torture.harness import command
from tests.torture.mutate import arguments, texts, trees

pytestmark = pytest.mark.slow


def as_yaml(tree: object) -> bytes:
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


@pytest.fixture
def recipe_tree(tiny_text: str, whole_run: Path) -> dict:
    """The tiny recipe with every default written out, on the ready teacher."""
    tree = Recipe.model_validate(yaml.safe_load(tiny_text)).model_dump(mode="json")
    return {**tree, "teacher": {**tree["teacher"], "path": str(whole_run / "teacher")}, "teach": None}


def test_recipes(recipe_tree: dict, tmp_path: Path) -> None:
    """A recipe that validates is one whose dry run ends too."""

    def judge(content: bytes, folder: Path) -> str:
        (folder / "mine.yaml").write_bytes(content)
        first = verdict(command(["recipes", "validate", "mine.yaml"], cwd=folder))
        second = verdict(command(["run", "mine.yaml", "--dry-run"], cwd=folder)) if first == ACCEPTED else first
        if left := [path.name for path in folder.iterdir() if path.name != "mine.yaml"]:
            raise Failed(f"left behind: {left}")
        return second

    cases = trees(recipe_tree).map(as_yaml) | texts(as_yaml(recipe_tree).decode())
    campaign("recipes", cases, judge, folder=tmp_path, whole=500, few=25)


def test_recipes_carried_out(recipe_tree: dict, tmp_path: Path) -> None:
    """A recipe that validates ends in a student, or in one line before there is any file of one."""
    small = ("distill.steps=2", "distill.warmup_steps=0", "distill.checkpoint_every=1", "distill.log_every=1")
    parts = {key: recipe_tree[key] for key in ("data", "noise_schedule", "student", "distill", "sampling", "seed")}

    def judge(tree: dict, folder: Path) -> str:
        (folder / "mine.yaml").write_bytes(as_yaml({**recipe_tree, **tree, "name": "mine"}))
        options = [part for each in small for part in ("--set", each)]
        outcome = command(["distill", "mine.yaml", "--run-dir", "runs", *options], cwd=folder, limit_s=60)
        found = verdict(outcome)
        if (found == ACCEPTED) != (folder / "runs" / "mine" / "student" / "manifest.json").is_file():
            raise Failed(f"half-written: {found}")
        return found

    campaign("recipes, carried out", trees(parts), judge, folder=tmp_path, whole=150, few=3)


def test_targets(tmp_path: Path, warm: None) -> None:
    tree = Target(name="mine", description="mine").model_dump(mode="json")
    for key in ("sampler", "calibration", "engine"):  # they belong to other backends and precisions
        del tree[key]

    def judge(content: bytes, folder: Path) -> str:
        (folder / "mine.yaml").write_bytes(content)
        return verdict(command(["exporters", "validate", "mine.yaml"], cwd=folder))

    cases = trees(tree).map(as_yaml) | texts(as_yaml(tree).decode())
    campaign("export targets", cases, judge, folder=tmp_path, whole=250, few=15)


def test_targets_carried_out(whole_run: Path, tmp_path: Path) -> None:
    """A target with another number or choice ends in an artifact or in one line."""
    target = {"name": "mine", "description": "mine", "single_file_mb": 100, "opset": 22, "graphs": ["guided"]}
    target["parity"] = {"relative_error": 1e-4, "batch_sizes": [1, 3], "t_bins": 4}

    def judge(tree: dict, folder: Path) -> str:
        (folder / "mine.yaml").write_bytes(as_yaml(tree))
        (folder / "run").mkdir()
        (folder / "run" / "student").symlink_to(whole_run / "student")
        found = verdict(command(["export", "run", "--to", "mine.yaml"], cwd=folder, limit_s=60))
        written = list((folder / "run").glob("artifacts/*"))
        if found != ACCEPTED and written:
            raise Failed(f"left behind: {written}")
        return found

    campaign("export targets, carried out", trees(target), judge, folder=tmp_path, whole=40, few=1)


def test_comparisons(recipe_tree: dict, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_bytes(as_yaml(recipe_tree))
    tree = {
        "name": "mine",
        "recipe": "../base.yaml",
        "seeds": [0, 1],
        "set": {"distill.steps": 2},
        "variants": {
            "full": {"label": "full", "set": {"distill": {"objective": {"kind": "dash"}}}},
            "scratch": {"label": "scratch", "set": {"distill.objective": {"kind": "scratch"}}},
        },
        "shares": {"full": "full", "baseline": "scratch", "without": {"anchor": "scratch"}},
        "closes": "scratch",
    }

    def judge(content: bytes, folder: Path) -> str:
        (folder / "mine.yaml").write_bytes(content)
        first = verdict(command(["recipes", "validate", "mine.yaml"], cwd=folder))
        return verdict(command(["compare", "mine.yaml", "--dry-run"], cwd=folder)) if first == ACCEPTED else first

    cases = trees(tree).map(as_yaml) | texts(as_yaml(tree).decode())
    campaign("comparisons", cases, judge, folder=tmp_path, whole=200, few=12)


def test_overrides(recipe_tree: dict, tmp_path: Path) -> None:
    """--set with any key and any value."""
    (tmp_path / "base.yaml").write_bytes(as_yaml(recipe_tree))
    keys = ["seed", "distill.steps", "data.image_size", "distill.batch_size", "bench.latency.batch_sizes", "student"]
    keys += ["student.compression", "sampling.num_inference_steps", "distill.threads", "sampling.guidance", "data.path"]
    keys += [
        "noise_schedule.num_train_timesteps",
        "student.architecture.block_out_channels",
        "export.0",
        "name",
        "",
        "a.0.b",
    ]

    def judge(options: list[str], folder: Path) -> str:
        args = [part for option in options for part in ("--set", option.removeprefix("--"))]
        return verdict(command(["run", "../base.yaml", "--dry-run", *args], cwd=folder))

    cases = arguments({f"--{key}": 2 for key in keys})
    campaign("overrides by --set", cases, judge, folder=tmp_path, whole=200, few=10)


SAMPLE = {"--labels": "0-3", "--columns": 2, "--guidance": "2", "--steps": 2, "--solver": "ddim", "--seed": 1}
SAMPLE |= {"--scale": 2, "--threads": 1, "--provider": "CPUExecutionProvider", "--device": "cpu", "--out": "x.png"}


def test_arguments_of_sample(whole_run: Path, tmp_path: Path) -> None:
    """Every option of `sample`: a whole PNG of the named size, or one line and no file."""
    models = [str(whole_run), str(whole_run / "student"), str(whole_run / "artifacts" / "onnx-cpu" / "guided.onnx")]

    def judge(case: tuple[str, list[str]], folder: Path) -> str:
        from PIL import Image

        model, options = case
        outcome = command(["sample", model, "--steps=2", *options], cwd=folder)
        found, written = verdict(outcome), [p for p in folder.rglob("*") if p.is_file()]
        if found != ACCEPTED and written:
            raise Failed(f"left behind: {written}")
        for path in written:
            with Image.open(path) as image:
                image.load()
        return found

    cases = st.tuples(st.sampled_from(models), arguments(SAMPLE))
    campaign("arguments of sample", cases, judge, folder=tmp_path, whole=300, few=12)


def test_arguments_of_all_commands(whole_run: Path, tmp_path: Path) -> None:
    """Every command with paths and options that no one should give."""
    run = str(whole_run)
    commands = {
        "diff": {"--max-slowdown": 1.1, "--max-size-increase": 0.1, "0": run, "1": run},
        "adopt": {"--image-size": 8, "--weights": "ema", "0": f"{run}/student", "1": "out"},
        "export": {"--to": "onnx-cpu", "0": "nothing"},
        "bench": {"--features": "auto", "--weights": "x", "0": "nothing", "--set": "bench.seed=1"},
        "compare": {"--shard": "1/2", "--threads": 1, "0": "digits"},
        "recipes": {"0": "cp", "1": "digits", "2": "out.yaml"},
        "exporters": {"0": "cp", "1": "onnx-cpu", "2": "out.yaml"},
        "run": {"0": "digits", "--run-dir": "runs", "--set": "seed=1"},
        "sample": {"0": run, "--out": "x.png"},
    }

    def judge(case: tuple[str, list[str]], folder: Path) -> str:
        name, options = case
        tail = ["--dry-run"] if name in ("run", "compare") else []
        return verdict(command([name, *options, *tail], cwd=folder))

    cases = st.sampled_from(sorted(commands)).flatmap(lambda n: st.tuples(st.just(n), arguments(commands[n])))
    campaign("arguments of other commands", cases, judge, folder=tmp_path, whole=250, few=10)
