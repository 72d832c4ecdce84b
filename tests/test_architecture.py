"""The house rules that a machine can check: imports go down only, files say what they are and stay small."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "dashdeploy"
FILES = sorted(p for p in PACKAGE.rglob("*.py"))

GROUND = {
    *("recipe", "target", "artifact", "figures", "manifest"),
    *("stages", "errors", "lazy", "locate", "seeds", "weights_file"),
}
MIDDLE = {"teachers", "students", "data", "runtime", "metrics", "report"}
STAGES = {"training", "export", "bench"}
APART = {"doctor"}  # looks at the machine, and knows nothing of the rest
BELOW = {
    "ground": GROUND,
    "diffusion": GROUND,
    **dict.fromkeys(APART, GROUND),
    **dict.fromkeys(MIDDLE, GROUND | {"diffusion"}),
    **dict.fromkeys(STAGES, GROUND | {"diffusion"} | MIDDLE),
    "packages": GROUND | {"diffusion"} | MIDDLE | {"export"},
    "pipeline": GROUND | {"diffusion"} | MIDDLE | STAGES | {"packages"},
    "compare": GROUND | {"diffusion"} | MIDDLE | STAGES | {"pipeline"},
    "cli": GROUND | {"diffusion"} | MIDDLE | STAGES | APART | {"packages", "pipeline", "compare"},
    "__main__": {"cli"},
}
# Opening a torch model is what the teachers' adapters are for, and a student is a smaller teacher.
ALSO = {"runtime": {"teachers"}, "students": {"teachers"}, "teachers": {"data"}, "metrics": {"data"}}


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "ground" if first in GROUND else first


def registered(path: Path) -> list[str]:
    """The "module:attribute" strings of a file's registries."""
    strings = (n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant))
    return [s for s in strings if isinstance(s, str) and re.fullmatch(r"dashdeploy\.[\w.]+:\w+", s)]


def imports(path: Path) -> set[str]:
    """Rooms of dashdeploy that a file imports or registers, anywhere in it."""
    found = {name.split(":")[0].split(".")[1] for name in registered(path)}
    for node in ast.walk(ast.parse(path.read_text())):
        modules: list[str] = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"line {node.lineno}: a relative import hides its room"
            modules = [f"{node.module}.{a.name}" if node.module == "dashdeploy" else node.module for a in node.names]
        elif isinstance(node, ast.Import):
            modules = [a.name for a in node.names]
        found |= {m.split(".")[1] for m in modules if m.startswith("dashdeploy.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        assert imports(path) == set()
        return
    allowed = BELOW[here] | ALSO.get(here, set()) | ({here} if here != "ground" else set())
    assert imports(path) <= allowed, f"{here} may not import {imports(path) - allowed}"


def test_everything_that_is_registered_exists() -> None:
    names = [name for path in FILES for name in registered(path)]
    assert len(names) >= 8, names
    for name in names:
        module, attribute = name.split(":")
        assert callable(getattr(importlib.import_module(module), attribute)), name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_file_says_in_its_first_line_what_it_is_and_stays_small(path: Path) -> None:
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    assert len(docstring.splitlines()[0]) > 15
    assert len(text.splitlines()) <= 350


def test_only_guidance_knows_the_branch_order() -> None:
    # The stacked batch is built by one torch.cat([null, y]) and cut by one pair of slices.
    builders = [p for p in FILES if "full_like(y, null_class)" in p.read_text()]
    assert [p.name for p in builders] == ["guidance.py"]
