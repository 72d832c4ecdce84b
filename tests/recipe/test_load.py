from __future__ import annotations

import os
from pathlib import Path

import pytest

from dashdeploy.errors import UserError
from dashdeploy.locate import available
from dashdeploy.recipe.comparison import is_comparison
from dashdeploy.recipe.load import load_recipe, load_text, resolved_yaml
from dashdeploy.recipe.schema import Recipe

VALID = "name: x\nteacher: {path: there}\nstudent: {compression: 4}\n"  # three lines

KINDS = (
    "dash, cond_only, composite, multi_w, gap_match, fitnets, shared_mask, single_head, scratch, guided, segments, "
    "progressive, consistency, distribution_matching"
)


def load(more: str = "", *overrides: str) -> Recipe:
    return load_text(VALID + more, name="x.yaml", overrides=overrides)


def problems(more: str = "", *overrides: str, text: str | None = None) -> list[str]:
    """The lines of the message, without the first one's file name and the others' indentation."""
    with pytest.raises(UserError) as caught:
        load_text(VALID + more if text is None else text, name="x.yaml", overrides=overrides)
    first, *lines = str(caught.value).split("\n")
    assert first == f"x.yaml: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
    assert all(line.startswith("  ") for line in lines)
    return [line[2:] for line in lines]


def refusal(text: str) -> str:
    """The message about a text that is no recipe at all: one line."""
    with pytest.raises(UserError) as caught:
        load_text(text, name="x.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name, path in available("recipes").items() if not is_comparison(path)])
def test_shipped_recipe_is_valid_and_named_after_its_file(name: str) -> None:
    assert load_recipe(name).name == name


# values


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.1e-3", ".1e-3", "+1e-4", "0.0001"])
def test_numbers_with_an_exponent_are_numbers(text: str) -> None:
    assert load(f"distill: {{learning_rate: {text}}}").distill.learning_rate == 1e-4


def test_dates_and_quoted_numbers_stay_text() -> None:
    recipe = load("data: {path: 2024-01-01, features: 1}", "data={path: 2024-01-01}")
    assert recipe.data.path == str(Path("2024-01-01").absolute())
    assert load("data: {path: '1e5'}").data.path == "1e5"


def test_aliases_are_expanded() -> None:
    recipe = load("distill: {steps: &n 7}\nteach: {steps: *n}")
    assert recipe.teach is not None
    assert recipe.teach.steps == recipe.distill.steps == 7


# problems and their lines


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    lines = problems("distill:\n  stpes: 3\n  batch_size: 0\nsampling: {num_inference_steps: many}\nseed: -1\n")
    assert lines[0].startswith("line 5: distill.stpes: unknown key; did you mean 'steps'? (known: steps, batch_size,")
    assert lines[1:] == [
        "line 6: distill.batch_size: must be ≥ 1, got 0",
        "line 7: sampling.num_inference_steps: must be a whole number, got 'many'",
        "line 8: seed: must be ≥ 0, got -1",
    ]


def test_a_missing_key_names_the_line_of_its_section() -> None:
    assert problems(text="# a comment\nname: x\nteacher: {path: a}\n") == ["line 1: student: required key is missing"]


def test_a_validator_of_ours_names_the_line_of_its_section() -> None:
    lines = problems("distill:\n  batch_size: 10\n  gradient_accumulation: 3")
    assert lines == ["line 4: distill: batch_size 10 is not a multiple of gradient_accumulation 3"]


def test_a_choice_lists_the_choices_and_the_nearest() -> None:
    lines = problems("distill: {lr_schedule: cosin}")
    assert lines == ["line 4: distill.lr_schedule: must be 'cosine' or 'constant', got 'cosin'; did you mean 'cosine'?"]


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("{kind: dashh}", f".kind: unknown 'dashh'; did you mean 'dash'? (known: {KINDS})"),
        ("{anchor: 1}", f": needs a kind (known: {KINDS})"),
        ("dash", ": must be a section (`key: value` lines), got 'dash'"),
        (
            "{kind: cond_only, anchorr: 1}",
            ".anchorr: unknown key; did you mean 'anchor'? (known: kind, imitation, anchor)",
        ),
        ("{kind: dash, dash: 1}", ".dash: unknown key (known: kind, imitation, unconditional, anchor, gap, hint)"),
        ("{kind: dash, anchor: -1}", ".anchor: must be ≥ 0, got -1"),
    ],
)
def test_a_union_by_kind_gives_one_problem_on_its_own_path(objective: str, expected: str) -> None:
    assert problems(f"distill:\n  objective: {objective}") == [f"line 5: distill.objective{expected}"]


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        ("-1", ": must be ≥ 0, got -1"),
        ("tag", ": must be a number or a section (keys: kind, w_min, w_max, beta, w, low, high), got 'tag'"),
        ("[1]", ": must be a number or a section (keys: kind, w_min, w_max, beta, w, low, high), got [1]"),
        ("null", ": must be a number or a section (keys: kind, w_min, w_max, beta, w, low, high), got null"),
        ("{kind: tg}", ".kind: unknown 'tg'; did you mean 'tag'? (known: tag, interval)"),
        ("{w_max: 3}", ": needs a kind (known: tag, interval)"),
        ("{kind: tag, w_mxa: 3}", ".w_mxa: unknown key; did you mean 'w_max'? (known: kind, w_min, w_max, beta)"),
        ("{kind: interval, low: 0.8, high: 0.2}", ": low (0.8) must be below high (0.2)"),
        ("{kind: tag, w_max: {a: 1}}", '.w_max: must be a number, got {"a": 1}'),
    ],
)
def test_a_number_or_section_gives_one_problem(guidance: str, expected: str) -> None:
    assert problems(f"sampling: {{guidance: {guidance}}}") == [f"line 4: sampling.guidance{expected}"]
    assert problems(f"bench:\n  quality:\n    guidance:\n      - 1\n      - {guidance}") == [
        f"line 8: bench.quality.guidance.1{expected}"
    ]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("seed: yes", "seed: must be a whole number, got true"),
        ("seed: '3'", "seed: must be a whole number, got '3'"),
        ("seed: 1.5", "seed: must be a whole number, got 1.5"),
        ("bench: {seed: no}", "bench.seed: must be a whole number, got false"),
        ("distill: {learning_rate: yes}", "distill.learning_rate: must be a number, got true"),
        ("distill: {learning_rate: .inf}", "distill.learning_rate: must be a finite number, got Infinity"),
        ("distill: {weight_decay: .nan}", "distill.weight_decay: must be a finite number, got NaN"),
        ("data: {download: 1}", "data.download: must be true or false, got 1"),
        ("data: {image_size: 2}", "data.image_size: must be ≥ 4, got 2"),
        ("data: {path: ''}", "data.path: must have at least 1 character, got ''"),
        (
            "data: {name: cifar}",
            "data.name: must be 'digits', 'fashion_mnist', 'cifar10', 'cifar100', 'image_folder' or 'latents', "
            "got 'cifar'; did you mean 'cifar10'?",
        ),
        ("noise_schedule: {beta_start: 0}", "noise_schedule.beta_start: must be > 0, got 0"),
        (
            "teach: {architecture: {block_out_channels: [0]}}",
            "teach.architecture.block_out_channels.0: must be ≥ 1, got 0",
        ),
        (
            "teach: {architecture: {attention_levels: [-1]}}",
            "teach.architecture.attention_levels.0: must be ≥ 0, got -1",
        ),
        ("bench: {latency: {batch_sizes: [1, 0]}}", "bench.latency.batch_sizes.1: must be ≥ 1, got 0"),
        ("bench: {latency: {batch_sizes: [true]}}", "bench.latency.batch_sizes.0: must be a whole number, got true"),
        ("bench: {quality: {guidance: []}}", "bench.quality.guidance: must have 1 or more values, got []"),
        (
            "bench: {quality: {guidance: [2, {kind: tag}, 2.0]}}",
            "bench.quality.guidance: value 2 (counted from 0) repeats value 0",
        ),
        (
            "bench: {fidelity: {bins: 101, num_pairs: 100}}",
            "bench.fidelity: bins 101 exceeds num_pairs 100: some would be empty",
        ),
        ("export: [a, a]", "export: value 1 (counted from 0) repeats value 0"),
        ("export: ['']", "export.0: must have at least 1 character, got ''"),
        (
            "sampling: {guidance: {kind: tag, w_min: 3, w_max: 2}}",
            "sampling.guidance: w_max (2) must not be below w_min (3)",
        ),
        ("sampling: {guidance: {kind: tag, w_min: -1}}", "sampling.guidance.w_min: must be ≥ 0, got -1"),
        ("sampling: {guidance: {kind: tag, beta: 0}}", "sampling.guidance.beta: must be > 0, got 0"),
        (
            "distill: {objective: {kind: dash, imitation: 0, unconditional: 0, anchor: 0}}",
            "distill.objective: all coefficients are 0: there is nothing to learn",
        ),
        (
            "distill: {objective: {kind: cond_only, imitation: 0, anchor: 0}}",
            "distill.objective: all coefficients are 0: there is nothing to learn",
        ),
        (
            "distill: {objective: {kind: fitnets, imitation: 0, anchor: 0}}",
            "distill.objective: imitation and anchor are 0: hints do not concern the output",
        ),
        ("distill: {steps: 20, warmup_steps: 21}", "distill: warmup_steps 21 exceeds steps 20; set it lower too"),
        (
            "noise_schedule: {num_train_timesteps: 40}\nsampling: {num_inference_steps: 41}",
            "sampling: num_inference_steps 41 exceeds noise_schedule.num_train_timesteps 40",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_one_problem_on_its_own_path(more: str, expected: str) -> None:
    (line,) = problems(more)
    assert line.split(": ", 1)[1] == expected


@pytest.mark.parametrize(
    ("taught", "wanted", "problem"),
    [
        ("{kind: uniform}", "{kind: tirt}", "teach.timestep_weights.kind is 'uniform'"),
        ("{kind: uncertainty}", "{kind: loss_ema}", "teach.timestep_weights.kind is 'uncertainty'"),
        ("{kind: published}", "{kind: tirt, gamma: 4}", "gamma is 4, and 5 in teach"),
    ],
)
def test_a_lambda_that_the_teacher_will_not_learn_is_told_before_it_is_trained(
    taught: str, wanted: str, problem: str
) -> None:
    own = "name: x\nstudent: {compression: 4}\n"
    stages = f"teach: {{timestep_weights: {taught}}}\ndistill: {{timestep_weights: {wanted}}}\n"
    (line,) = problems(text=own + stages)
    assert "takes its λ from the teacher, but " + problem in line
    ready = load_text(f"{own}teacher: {{path: there}}\n{stages}", name="x.yaml")
    assert ready.distill.timestep_weights.kind in wanted, "a ready teacher's λ is read with it"
    same = load_text(own + stages.replace(taught, wanted), name="x.yaml")
    assert same.teach is not None and same.teach.timestep_weights == same.distill.timestep_weights


def test_whole_numbers_may_have_an_exponent() -> None:
    assert load("distill: {steps: 1e4}").distill.steps == 10_000


def test_the_warmup_follows_few_steps_unless_it_is_given() -> None:
    assert load().distill.warmup_steps == 100
    assert load("distill: {steps: 30}").distill.warmup_steps == 30
    assert load("distill: {steps: 30, warmup_steps: 30}").distill.warmup_steps == 30


def test_an_inference_plan_is_compared_with_a_stated_noise_schedule_only() -> None:
    assert load("sampling: {num_inference_steps: 1500}").sampling.num_inference_steps == 1500
    assert load("noise_schedule: {num_train_timesteps: 40}\nsampling: {num_inference_steps: 40}").noise_schedule


def test_no_artifact_may_be_asked_for() -> None:
    assert load("export: []").export == ()


def test_the_json_schema_keeps_the_bounds_of_values_that_may_be_null_or_are_in_lists() -> None:
    sections = Recipe.model_json_schema()["$defs"]
    assert sections["Data"]["properties"]["image_size"]["anyOf"][0] == {
        "minimum": 4,
        "maximum": 4096,
        "type": "integer",
    }
    assert sections["Latency"]["properties"]["batch_sizes"]["items"] == {
        "minimum": 1,
        "maximum": 65536,
        "type": "integer",
    }
    assert sections["Distill"]["properties"]["steps"]["minimum"] == 1


def test_repeated_keys_are_reported_with_both_lines_beside_other_problems() -> None:
    assert problems("distill:\n  steps: 0\n  steps: 5\nname: y\n") == [
        "line 5: distill.steps: must be ≥ 1, got 0",
        "line 6: distill.steps: given twice, first on line 5",
        "line 7: name: given twice, first on line 1",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("!!python/name:os.system x", "cannot read 'x' as !!python/name:os.system"),
        ("!!python/object/apply:os.getcwd []", "cannot read it as !!python/object/apply:os.getcwd"),
        ("0x_", "cannot read '0x_' as !!int"),
        ("!!bool x", "cannot read 'x' as !!bool"),
        ("!!int", "cannot read '' as !!int"),
        ("!!set {a}", "cannot read it as !!set"),
        ("9" * 5000, f"cannot read '{'9' * 58}… as !!int"),
    ],
)
def test_a_value_that_cannot_be_read_is_one_problem(value: str, expected: str) -> None:
    assert problems(f"seed: {value}") == [f"line 4: seed: {expected}"]


def test_keys_are_text_and_merge_keys_are_refused() -> None:
    lines = problems("1: a\non: b\n<<: {seed: 1}\n? [a]\n: 1\n")
    assert [line.split(" (")[0] for line in lines] == [
        "line 4: 1: unknown key",
        "line 5: on: unknown key",
        "line 6: merge keys",
        "line 7: merge keys",
    ]


def test_long_and_unprintable_text_does_not_break_the_lines() -> None:
    lines = problems('"a\\nb": 1\nname2: x\nseed: ' + "y" * 500 + "\n")
    assert [line.split(":")[1] for line in lines] == [" 'a\\nb'", " name2", " seed"]
    assert len(lines[2]) < 120


# texts that are no recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.yaml: expected sections (`name: …`, `student: …`) at the top level, got nothing"),
        ("[1]", "x.yaml: expected sections (`name: …`, `student: …`) at the top level, got [1]"),
        ("a:\n  b: [1", "x.yaml: line 2, column 8: expected ',' or ']', but got '<stream end>', while parsing"),
        ("a: 1\n\tb: 2", "x.yaml: line 2, column 1: found character '\\t' that cannot start any token"),
        ("a: 1\nb: \x00", "x.yaml: line 2: character U+0000 is not allowed"),
        ("a: *b", "x.yaml: line 1, column 4: found undefined alias 'b'"),
        ("a: 1\n---\nb: 2", "x.yaml: line 2, column 1: but found another document"),
        ("a: &a [*a]", "x.yaml: more than 20000 values with aliases expanded, or 50 levels"),
        ("[" * 3000, "x.yaml: nested too deeply"),
    ],
)
def test_what_is_not_yaml_or_not_sections_is_refused_with_its_place(text: str, expected: str) -> None:
    assert refusal(text).startswith(expected)


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "more than 20000 values" in refusal("\n".join(lines))


def test_a_large_or_binary_file_is_refused(tmp_path: Path) -> None:
    large, binary = tmp_path / "large.yaml", tmp_path / "binary.yaml"
    large.write_text("a: 1\n" * 100_000)
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="500000 bytes; a recipe has at most"):
        load_recipe(large)
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 0\)"):
        load_recipe(binary)


def test_a_path_below_the_working_folder_is_shown_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("name: x\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"\Amine\.yaml: 1 problem\n"):
        load_recipe(tmp_path / "mine.yaml")
    monkeypatch.chdir(os.sep)
    with pytest.raises(UserError, match=r"\A\S+mine\.yaml: 1 problem\n"):
        load_recipe(tmp_path / "mine.yaml")


# overrides


def test_overrides_set_create_and_reach_into_lists() -> None:
    recipe = load(
        "distill: {steps: 5}\nbench:\n  quality: {guidance: [1, 2]}",
        "distill.steps=200",
        "distill.learning_rate=1e-4",
        "bench.fidelity.num_pairs=300",
        "bench.quality.guidance.1={kind: tag, w_max: 3}",
        "bench.quality.guidance.2=5",
        "student.compression=null",
        "student.architecture.block_out_channels=[8, 16]",
    )
    assert (recipe.distill.steps, recipe.distill.learning_rate, recipe.bench.fidelity.num_pairs) == (200, 1e-4, 300)
    first, tag, last = recipe.bench.quality.guidance
    assert (first, last, getattr(tag, "w_max", None)) == (1.0, 5.0, 3.0)
    assert recipe.student.architecture is not None
    assert recipe.student.architecture.block_out_channels == (8, 16)


def test_overrides_reach_into_defaults_that_the_file_leaves_out() -> None:
    default = load()
    recipe = load("", "bench.quality.guidance.0=1.25", "distill.objective.anchor=0.3", "export.0=other")
    assert recipe.bench.quality.guidance == (1.25, *default.bench.quality.guidance[1:])
    assert recipe.distill.objective == default.distill.objective.model_copy(update={"anchor": 0.3})
    assert recipe.export == ("other",)


def test_a_later_override_wins() -> None:
    assert load("", "seed=1", "seed=2").seed == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=-1", "--set seed=-1: must be ≥ 0, got -1"),
        ("distill={steps: 0}", "--set distill={steps: 0}: distill.steps: must be ≥ 1, got 0"),
        ("seed", "--set seed: expected key.path=value, such as distill.steps=200"),
        ("distill..steps=1", "--set distill..steps=1: expected key.path=value, such as distill.steps=200"),
        ("=1", "--set =1: expected key.path=value, such as distill.steps=200"),
        ("name.first=1", "--set name.first=1: name: is 'x' and has no keys; set it as a whole"),
        ("export.7=a", "--set export.7=a: export: is a list of 1; give an index from 0 to 1"),
        ("export.a=a", "--set export.a=a: export: is a list of 1; give an index from 0 to 1"),
        ("data={path: a, path: b}", "--set data={path: a, path: b}: data.path: given twice, first on line 1"),
    ],
)
def test_a_bad_override_is_reported_by_its_own_text(override: str, expected: str) -> None:
    assert problems("", override) == [expected]


def test_misspelt_overrides_name_the_nearest_key() -> None:
    deep, top = problems("", "distill.stpes=200", "distil.steps=200")
    assert deep.startswith("--set distill.stpes=200: unknown key; did you mean 'steps'? (known: ")
    assert top.startswith("--set distil.steps=200: distil: unknown key; did you mean 'distill'? (known: ")


@pytest.mark.parametrize("value", ["[1", "*a", "a: b: c", "[" * 3000])
def test_an_override_whose_value_is_not_yaml(value: str) -> None:
    (line,) = problems("", f"seed={value}")
    assert line.startswith(f"--set seed={value[:50]}")
    assert ": the value is not YAML: " in line


def test_problems_of_the_file_and_of_overrides_are_told_apart() -> None:
    assert problems("distill: {steps: 0, warmup_steps: -1}", "distill.steps=-3") == [
        "line 4: distill.warmup_steps: must be ≥ 0, got -1",
        "--set distill.steps=-3: must be ≥ 1, got -3",
    ]


# resolved form


def test_the_resolved_recipe_loads_to_an_equal_one() -> None:
    recipe = load(
        "data: {path: 1_000.yaml}\nsampling: {guidance: {kind: tag, beta: 1e-7}}\nteach: {steps: 3}",
        "teacher.path='1e5'",
    )
    text = resolved_yaml(recipe)
    assert "1000" in text  # num_train_timesteps or steps: defaults are written out
    assert load_text(text, name="resolved") == recipe


@pytest.mark.parametrize(("text", "read"), [("010", "8"), ("1:30", "90"), ("-07_0", "-56")])
def test_a_number_that_yaml_reads_otherwise_than_a_person_is_refused(text: str, read: str) -> None:
    assert problems(f"distill: {{steps: {text}}}") == [
        f"line 4: distill.steps: YAML reads '{text}' as {read}; write the number that you mean, in decimal digits"
    ]
