"""The main job makes each stage again where something that it depends on has changed, and only there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dashdeploy import stages
from dashdeploy.errors import UserError
from dashdeploy.pipeline import describe, run_all
from dashdeploy.preflight.examine import examine
from dashdeploy.recipe.load import load_text
from dashdeploy.training.teach import teach

QUICK = [
    "export=[]",
    "bench.latency.batch_sizes=[]",
    "bench.quality={num_images: 16, guidance: [1.0], bootstrap: 0, batch_size: 16}",
]


@pytest.mark.slow
def test_the_artifact_samples_as_the_recipe_at_hand_says(tiny_run: Path, tiny_text: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "tiny")
    told: list[str] = []
    for steps, exported in ((4, False), (3, True), (3, False)):
        overrides = [*QUICK[1:], "export=[onnx-cpu]", f"sampling.num_inference_steps={steps}"]
        recipe = load_text(tiny_text, name="tiny", overrides=overrides)
        before = stages.read_stage(tmp_path / "tiny" / "artifacts" / "onnx-cpu").manifest["key"]
        run_all(recipe, tmp_path / "tiny", say=told.append)
        artifact = stages.read_stage(tmp_path / "tiny" / "artifacts" / "onnx-cpu")
        assert (artifact.manifest["key"] != before) is exported
        assert len(artifact.manifest["artifact"]["sampler"]["timesteps"]) == steps
    assert any(line.startswith("artifact") for line in told)


def test_a_changed_field_makes_the_stages_again_that_depend_on_it(tiny_text: str, tmp_path: Path) -> None:
    folder = stages.open_run(tmp_path, "tiny")

    def made(*overrides: str, fresh: bool = False) -> dict[str, str]:
        recipe = load_text(tiny_text, name="tiny", overrides=[*QUICK, *overrides])
        if fresh:
            teach(recipe, folder, fresh=True)
        run_all(recipe, folder, fresh=fresh, say=lambda line: None)
        return {name: stages.read_stage(folder / name).manifest["key"] for name in ("teacher", "student", "bench")}

    def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
        return [name for name in before if before[name] != after[name]]

    first = made()
    assert changed(first, made("distill.log_every=3")) == []
    sampled = made("sampling.num_inference_steps=3")
    assert changed(first, sampled) == ["bench"]
    other = ("distill.learning_rate=1e-4", "sampling.num_inference_steps=3")
    with pytest.raises(UserError, match=r"student: finished with other values: distill\.learning_rate .* → 0\.0001\."):
        made(*other)
    distilled = made(*other, fresh=True)
    assert changed(sampled, distilled) == ["student", "bench"]
    with pytest.raises(UserError, match=r"teacher: finished with other values: .*horizontal_flip .* → true"):
        made("data.horizontal_flip=true", *other)
    mirrored = made("data.horizontal_flip=true", *other, fresh=True)
    assert changed(distilled, mirrored) == ["teacher", "student", "bench"]

    def said_of_teacher(*overrides: str) -> str:
        recipe = load_text(tiny_text, name="tiny", overrides=[*QUICK, *overrides])
        return describe(recipe, folder, examine(recipe, folder))[0]

    assert "not needed" in said_of_teacher("data.horizontal_flip=true")
    assert "12 steps of 16 images" in said_of_teacher()
