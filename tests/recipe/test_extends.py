"""Recipes that extend others: what is merged, whose line a problem has, which chains are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dashdeploy.cli.app import main
from dashdeploy.errors import UserError
from dashdeploy.objectives.cond_only import CondOnly
from dashdeploy.objectives.dash import Dash
from dashdeploy.recipe.comparison import load_comparison, recipe_of
from dashdeploy.recipe.initialisation import Pruned
from dashdeploy.recipe.keys import depends_on
from dashdeploy.recipe.load import load_recipe, load_text, resolved_yaml
from dashdeploy.recipe.schema import GuidanceInterval, PowerEma, Recipe, TimestepWeights

BASE = """
name: base
seed: 5
teacher: {path: there}
student: {compression: 4, init: {kind: pruned, importance: taylor, samples: 64}}
distill:
  objective: {kind: dash, imitation: 2.0, anchor: 0.3}
  steps: 70
  ema_decay: {kind: power, std: 0.05}
  timestep_weights: {kind: tirt, gamma: 4}
sampling: {guidance: {kind: interval, w: 3, low: 0.1}}
bench: {quality: {guidance: [1.0, 2.0]}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with base.yaml in it."""
    (tmp_path / "base.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def extension(text: str, *, name: str = "more", base: str = "base.yaml") -> Recipe:
    Path(f"{name}.yaml").write_text(f"extends: {base}\nname: {name}\n{text}")
    return load_recipe(f"{name}.yaml")


def refusal(name: str = "more.yaml") -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(name)
    return str(caught.value)


def test_what_the_extension_leaves_out_is_the_bases_apart_from_the_name() -> None:
    recipe = extension("distill: {steps: 90}")
    base = load_recipe("base.yaml")
    # The default of warmup_steps follows the steps, as in a recipe that gives them itself.
    distill = base.distill.model_copy(update={"steps": 90, "warmup_steps": 90})
    assert base.model_copy(update={"name": "more", "distill": distill}) == recipe


def test_a_list_replaces_the_bases_and_null_sets_null() -> None:
    recipe = extension(
        "bench: {quality: {guidance: [4.0]}}\n"
        "teacher: {path: null}\nteach: {steps: 3, warmup_steps: 1, timestep_weights: {kind: tirt, gamma: 4}}"
    )
    assert recipe.teacher.path is None and recipe.teach is not None and recipe.teach.steps == 3


def test_a_section_of_one_kind_is_merged_and_one_of_another_kind_starts_anew() -> None:
    same = extension(
        "distill: {objective: {kind: dash, anchor: 0.2}, ema_decay: {std: 0.2}, timestep_weights: {gamma: 3}}\n"
        "student: {init: {importance: magnitude}}\nsampling: {guidance: {w: 4}}"
    )
    assert same.distill.objective == Dash(imitation=2.0, anchor=0.2)
    assert same.distill.ema_decay == PowerEma(std=0.2)
    assert same.distill.timestep_weights == TimestepWeights(kind="tirt", gamma=3)
    assert same.student.init == Pruned(importance="magnitude", samples=64)
    assert same.sampling.guidance == GuidanceInterval(w=4, low=0.1)
    other = extension(
        "distill: {objective: {kind: cond_only}, ema_decay: 0.9, timestep_weights: {kind: min_snr_eps}}\n"
        "student: {init: {kind: random}}\nsampling: {guidance: {kind: tag}}"
    )
    assert other.distill.objective == CondOnly()
    assert other.distill.ema_decay == 0.9
    assert other.distill.timestep_weights == TimestepWeights(kind="min_snr_eps")
    assert other.student.init.kind == "random"
    assert getattr(other.sampling.guidance, "w_max", None) == 4.0


def test_a_section_that_the_base_leaves_out_begins_as_its_default_kind() -> None:
    Path("plain.yaml").write_text("name: plain\nteacher: {path: there}\nstudent: {compression: 4}\n")
    recipe = extension("distill: {objective: {anchor: 0.2}, timestep_weights: {kind: uniform}}", base="plain.yaml")
    assert recipe.distill.objective == Dash(anchor=0.2)


def test_a_chain_is_resolved_from_its_end_and_paths_are_relative_to_each_file(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "middle.yaml").write_text("extends: ../base.yaml\nname: middle\nseed: 6\ndistill: {steps: 80}\n")
    recipe = extension("seed: 7", base="deep/middle")
    assert (recipe.seed, recipe.distill.steps, recipe.bench.quality.guidance) == (7, 80, (1.0, 2.0))


def test_a_bare_word_is_a_recipe_of_ours_and_never_a_file_beside() -> None:
    Path("digits.yaml").write_text(BASE)
    assert extension("", base="digits").distill == load_recipe("digits").distill
    assert extension("", base="./digits.yaml").seed == 5


def test_the_hash_and_the_resolved_text_do_not_tell_how_a_recipe_was_written() -> None:
    recipe = extension("distill: {objective: {kind: dash, gap: 0.5}}")
    whole = yaml.safe_load(BASE) | {"name": "more"}
    whole["distill"]["objective"]["gap"] = 0.5
    whole["teacher"]["path"] = str(Path("there").absolute())
    same = load_text(yaml.safe_dump(whole), name="whole")
    assert recipe == same and resolved_yaml(recipe) == resolved_yaml(same)
    assert depends_on(recipe, "student") == depends_on(same, "student")
    assert "extends" not in resolved_yaml(recipe)


def test_overrides_come_after_the_extension() -> None:
    extension("seed: 6")
    assert load_recipe("more.yaml", overrides=["seed=8"]).seed == 8


def test_a_dry_run_prints_the_resolved_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    extension("distill: {steps: 900}", base="digits")
    with pytest.raises(SystemExit) as ended:
        main(["run", "./more.yaml", "--dry-run"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert not ended.value.code
    assert (printed["name"], printed["distill"]["steps"], printed["distill"]["teacher_bank"]) == ("more", 900, 28000)


# problems


def test_each_problem_names_the_file_and_line_that_its_value_comes_from(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE.replace("steps: 70", "steps: 0").replace("seed: 5", "seed: -1"))
    (folder / "more.yaml").write_text(
        "extends: base.yaml\nname: more\nseed: -2\ndistill:\n  stpes: 3\n  batch_size: 0\n"
    )
    first, *lines = refusal().split("\n")
    assert first == "more.yaml: 4 problems"
    assert lines[0] == "  line 3: seed: must be ≥ 0, got -2"
    assert lines[1].startswith("  line 5: distill.stpes: unknown key; did you mean 'steps'?")
    assert lines[2:] == [
        "  line 6: distill.batch_size: must be ≥ 1, got 0",
        "  base.yaml line 8: distill.steps: must be ≥ 1, got 0",
    ]


def test_a_problem_inside_of_a_replaced_value_names_the_extension(folder: Path) -> None:
    (folder / "more.yaml").write_text(
        "extends: base.yaml\nname: more\nbench:\n  quality:\n    guidance:\n      - 1\n      - -2\n"
        "distill: {objective: {kind: scratch, label_dropout: 2}}\n"
    )
    assert refusal().split("\n")[1:] == [
        "  line 7: bench.quality.guidance.1: must be ≥ 0, got -2",
        "  line 8: distill.objective.label_dropout: must be < 1, got 2",
    ]


def test_a_section_that_does_not_fit_together_names_the_extension_that_changed_it(folder: Path) -> None:
    (folder / "more.yaml").write_text("extends: base.yaml\nname: more\n\nstudent: {architecture: {}}\n")
    assert refusal().split("\n")[1:] == ["  line 4: student: give exactly one of compression, architecture and dit"]


def test_the_name_is_not_inherited(folder: Path) -> None:
    (folder / "more.yaml").write_text("extends: base.yaml\nseed: 3\n")
    assert refusal() == "more.yaml: 1 problem\n  line 1: name: required key is missing"


def test_what_cannot_be_read_in_the_base_is_told_with_its_place(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE + "seed: 6\n")
    extended = "extends: base.yaml\nname: more\n"
    (folder / "more.yaml").write_text(extended)
    assert refusal() == "more.yaml: 1 problem\n  base.yaml line 13: seed: given twice, first on line 3"
    (folder / "base.yaml").write_text("a: [")
    assert refusal().startswith("base.yaml: line 1, column 5:")


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("digitz", "more.yaml → digitz: unknown recipe 'digitz'. Did you mean 'digits'? Known: "),
        ("gone/base.yaml", "more.yaml → gone/base.yaml: gone/base.yaml: no such file."),
        ("more.yaml", "more.yaml → more.yaml: recipes extend each other in a circle"),
        ("second.yaml", "more.yaml → second.yaml → third.yaml → second.yaml: recipes extend each other in a circle"),
        ("fourth.yaml", "more.yaml → fourth.yaml → digitz: unknown recipe 'digitz'. Did you mean 'digits'? Known: "),
    ],
)
def test_a_circle_or_a_missing_base_is_one_line_that_names_the_chain(folder: Path, base: str, expected: str) -> None:
    for name, other in (("second", "./third"), ("third", "second.yaml"), ("fourth", "digitz"), ("more", base)):
        (folder / f"{name}.yaml").write_text(f"extends: {other}\nname: {name}\n")
    assert refusal().startswith(expected)
    assert "\n" not in refusal()


@pytest.mark.parametrize("value", ["3", "[digits]", "''", "null"])
def test_what_is_no_name_is_refused_with_its_line(folder: Path, value: str) -> None:
    (folder / "more.yaml").write_text(f"name: more\nextends: {value}\n")
    lines = refusal().split("\n")
    assert lines[0] == "more.yaml: 1 problem"
    assert lines[1].startswith("  line 2: extends: must be the name of a recipe, or a path relative to this file, got ")


# comparisons extend by the same rules


def test_a_variant_extends_the_recipe_by_dotted_or_nested_keys(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "compared.yaml").write_text(
        "name: compared\nrecipe: ../base.yaml\nseeds: [3]\n"
        "set: {distill.objective: {kind: dash, anchor: 0.2}, export: []}\n"
        "variants:\n"
        "  dotted: {label: Dotted, set: {distill.objective.gap: 0.5, distill.steps: 80}}\n"
        "  nested: {label: Nested, set: {distill: {objective: {gap: 0.5}, steps: 80}}}\n"
        "  other: {label: Other, set: {distill.objective: {kind: cond_only}}}\n"
    )
    comparison = load_comparison("deep/compared.yaml")
    dotted, nested, other = (recipe_of(comparison, name, 3) for name in comparison.variants)
    assert dotted == nested
    assert dotted.distill.objective == Dash(imitation=2.0, anchor=0.2, gap=0.5)
    assert (dotted.seed, dotted.distill.steps, dotted.export) == (3, 80, ())
    assert other.distill.objective == CondOnly()
    more = recipe_of(comparison, "other", 4, more={"bench.latency.batch_sizes": [], "teacher.path": "x"})
    assert (more.seed, more.bench.latency.batch_sizes, more.teacher.path) == (4, (), "x")
    assert recipe_of(comparison, "other", 3) == other, "changes do not stay in the comparison"


def test_a_comparisons_recipe_that_is_a_path_without_suffix_is_no_recipe_of_ours(folder: Path) -> None:
    (folder / "digits.yaml").write_text(BASE)
    (folder / "compared.yaml").write_text(
        "name: compared\nrecipe: ./digits\nseeds: [3]\nvariants:\n  plain: {label: Plain}\n"
    )
    comparison = load_comparison("./compared.yaml")
    assert recipe_of(comparison, "plain", 3).name == "base"


def test_a_variants_problem_names_the_comparisons_line_and_the_recipes_keeps_its_own(folder: Path) -> None:
    path = folder / "compared.yaml"
    path.write_text(
        "name: compared\nrecipe: ./base.yaml\nseeds: [3]\nset:\n  seed: 1\n"
        "variants:\n  one:\n    label: One\n    set:\n      distill: {steps: 0}\n      distill.objective.anchorr: 3\n"
    )
    with pytest.raises(UserError) as caught:
        load_comparison("./compared.yaml")
    first, *lines = str(caught.value).split("\n")
    assert first == "compared.yaml: variant one: base.yaml: 2 problems"
    assert lines[0] == "  compared.yaml line 10: distill.steps: must be ≥ 1, got 0"
    assert lines[1].startswith(
        "  compared.yaml line 11: distill.objective.anchorr: unknown key; did you mean 'anchor'?"
    )
