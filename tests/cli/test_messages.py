"""What is told of a mistake names the way out: a thing of another kind, a file that is not there, a slip in a key."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from dashdeploy import terminal
from dashdeploy.cli.app import main

TARGET = "name: mine\ndescription: d\nbackend: onnxruntime\ngraphs: [guided]\n"
COMPARISON = "name: c\nrecipe: digits\nvariants:\n  a: {label: A}\n  b: {lable: B}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_text: str) -> Path:
    """A working folder with a recipe, a target, a comparison with a slip, and folders that look like a run's."""
    (tmp_path / "mine.yaml").write_text(tiny_text)
    (tmp_path / "target.yaml").write_text(TARGET)
    (tmp_path / "comparison.yaml").write_text(COMPARISON)
    (tmp_path / "runs" / "mine" / "student").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "student" / "manifest.json").write_text("{}")
    (tmp_path / "runs" / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("run runs/mine", "runs/mine: a run folder, not a recipe. `dashdeploy show runs/mine` says what comes next."),
        ("distill runs", "runs: a folder, and a recipe is a YAML file."),
        ("run ./no.yaml", "./no.yaml: no such file. Give a YAML file, or a name that `dashdeploy recipes ls` lists."),
        ("run mine", "mine: no recipe of this name ships with dashdeploy. The file here is ./mine.yaml."),
        ("run digit", "unknown recipe 'digit'. Did you mean 'digits'?"),
        ("run onnx-cpu", "onnx-cpu: not a name of recipes, but of exporters."),
        ("exporters validate digits", "digits: not a name of exporters, but of recipes."),
        ("run target.yaml", "it has `backend`, so it is an export target; expected a recipe."),
        ("recipes validate target.yaml", "`dashdeploy exporters validate target.yaml`"),
        ("exporters validate mine.yaml", "it is a recipe; expected an export target."),
        ("exporters validate comparison.yaml", "it is a comparison; expected an export target."),
        ("compare mine.yaml", "not a comparison (it has no variants). `dashdeploy run` takes recipes."),
        ("run comparison.yaml", "Carry it out with: dashdeploy compare comparison.yaml"),
        (
            "compare comparison.yaml",
            "variants.b.lable: unknown key; did you mean 'label'? (known: label, set, start, train_as)",
        ),
        ("export mine", "mine: no such run folder. Did you mean runs/mine?"),
        ("bench runs/none", "runs/none: no such run folder. `dashdeploy ls` lists the runs."),
        ("export runs/mine/student", "a stage of the run runs/mine, and a run folder is needed."),
        ("bench runs/empty", "runs/empty: holds no finished student. `dashdeploy show runs/empty` says"),
        ("show runs/empty", "runs/empty: holds neither a run, an artifact, a teacher nor a benchmark."),
        ("show none", "none: no such file or folder. Give a run folder"),
        ("show mine.yaml", "`dashdeploy run mine.yaml --dry-run`"),
        ("show target.yaml", "a YAML file"),
        ("ls none", "none: no such folder."),
        ("sample runs/mine -o no/x.png", "--out no/x.png: the folder no does not exist."),
        ("diff none runs/empty", "none: no such file or folder."),
        ("diff runs/empty none", "runs/empty/bench.json: no such file or folder."),
        ("diff runs/mine none", "runs/mine: a run without a benchmark. Run `dashdeploy bench runs/mine` first."),
        ("ls mine.yaml", "mine.yaml: a file, and a folder is needed."),
        ("sample mine.yaml", "mine.yaml: a file that is not opened by itself. Expected a run folder"),
        ("verify none", "none: no such folder."),
        ("verify runs/mine", "runs/mine: a run folder, and each stage in it has its own manifest."),
        ("verify runs/mine/student", "Without one, `dashdeploy show runs/mine/student` checks every file"),
        ("keygen .", ".: names a folder, and NAME.key and NAME.pub need a name, as in mine."),
        ("keygen ..", "..: names a folder, and NAME.key and NAME.pub need a name"),
        ("keygen /", "/: names a folder, and NAME.key and NAME.pub need a name"),
        ("run mine.yaml --dry-run --set name=My_Run", "must be a name of small letters, digits and . _ -"),
        (
            "run mine.yaml --dry-run --set distill.objective.gap=guidence",
            "must be a number or 'guidance', got 'guidence'; did you mean 'guidance'?",
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_way_out_is_named(command: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("error: ") and told in err
    assert "Errno" not in err and "(known: )" not in err and "^[" not in err
    assert all(line.startswith("  ") for line in err.splitlines()[1:])
    assert err.count("guidence: must be") <= 1


def test_a_warning_is_one_line_told_once_and_others_stay_pythons(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[tuple[object, ...]] = []
    monkeypatch.setattr(warnings, "showwarning", lambda *given: others.append(given))
    terminal.plain_warnings()
    ours = str(Path(terminal.__file__).parent / "data" / "x.py")
    for filename in (ours, ours, "/elsewhere/y.py"):
        warnings.showwarning("two\u00d7", UserWarning, filename, 7)
    assert capsys.readouterr().err == "warning: two\u00d7\n"
    assert [given[2] for given in others] == ["/elsewhere/y.py"]
