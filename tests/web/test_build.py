"""exporters/web/dist is what its sources compile to, under strict checks of types; the check finds stale files."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import load
from tests.web import browsing

SCRIPT = browsing.ROOT / "tools" / "web_build.py"


@pytest.fixture
def build() -> ModuleType:
    return load(SCRIPT, "web_build_under_test")


@pytest.fixture
def compiler(build: ModuleType) -> list[str]:
    command: list[str] | None = build.compiler()
    if command is None:
        browsing.missing("TypeScript is not here (python tools/web_setup.py)", ours=shutil.which("npm") is not None)
    return command


def test_what_is_committed_is_what_the_sources_compile_to(build: ModuleType, compiler: list[str]) -> None:
    made = build.compiled(compiler)
    assert made == build.read(build.WEB / "dist")
    sources = {path.stem for path in (build.WEB / "src").glob("*.ts")}
    assert {name.split(".")[0] for name in made} == sources
    assert len(made) == 3 * len(sources)


def test_an_error_of_types_is_no_build(build: ModuleType, compiler: list[str], tmp_path: Path) -> None:
    shutil.copytree(build.WEB / "src", tmp_path / "src")
    shutil.copyfile(build.WEB / "tsconfig.json", tmp_path / "tsconfig.json")
    (tmp_path / "src" / "wrong.ts").write_text("export const wrong: number = 'text';\n")
    with pytest.raises(SystemExit, match="TypeScript does not take it"):
        build.compiled(compiler, tmp_path)


def test_a_stale_file_is_named(
    build: ModuleType,
    compiler: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    shutil.copytree(build.WEB, tmp_path / "web")
    monkeypatch.setattr(build, "WEB", tmp_path / "web")
    monkeypatch.setattr(build, "compiled", lambda command: build.read(browsing.ROOT / "exporters" / "web" / "dist"))
    assert build.main(["--check"]) == 0
    (tmp_path / "web" / "dist" / "noise.js").write_text("")
    (tmp_path / "web" / "dist" / "old.js").write_text("")
    assert build.main(["--check"]) == 1
    assert "stale: noise.js, old.js in exporters/web/dist. Run: python tools/web_build.py" in capsys.readouterr().err


def test_without_the_compiler_the_check_says_so(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(build, "compiler", lambda: None)
    assert build.main(["--check"]) == 0 and build.main([]) == 1
    assert "not looked at: TypeScript is not here" in capsys.readouterr().err


def test_sources_stay_small() -> None:
    for path in sorted((browsing.ROOT / "exporters" / "web" / "src").glob("*.ts")):
        lines = path.read_text().splitlines()
        assert len(lines) <= 350 and max(map(len, lines)) <= 120, path
        assert lines[0].startswith("// "), f"{path}: its first line must say what it is"
