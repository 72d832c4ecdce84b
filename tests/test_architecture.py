"""The house rules that a machine can check: imports go down only, files say what they are and stay small."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "dashdeploy"
FILES = sorted(p for p in PACKAGE.rglob("*.py"))

GROUND = {
    *("autoencoder", "recipe", "objectives", "fields", "target", "artifact", "figures", "manifest"),
    *("cuda", "stages", "errors", "files", "lazy", "locate", "peak_memory", "progress", "ranks", "seeds"),
    *("terminal", "weights_file", "checked", "signing"),
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
    "preflight": GROUND | {"diffusion"} | MIDDLE | STAGES | {"packages"},
    "pipeline": GROUND | {"diffusion"} | MIDDLE | STAGES | {"packages", "preflight"},
    "show": GROUND | {"diffusion"} | MIDDLE | STAGES,
    "compare": GROUND | {"diffusion"} | MIDDLE | STAGES | {"preflight", "pipeline"},
    "cli": GROUND | {"diffusion"} | MIDDLE | STAGES | APART | {"packages", "preflight", "pipeline", "compare", "show"},
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
        assert imports(path) == {"runtime"}  # inside of `open`; tests/test_imports.py shows that it waits until then
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


NUMBERS = {
    "self.w_min + (self.w_max - self.w_min) * batch.uniform",
    "self.w_min + (self.w_max - self.w_min) * uniform",
    "guidance.w_min + (guidance.w_max - guidance.w_min) * gate",
    "start + (end - start) / (1.0 + np.exp(-np.linspace(-6, 6, steps)))",
    "one + (two - one) * (int(config[depth]) - 1)",
}
"""Sums of the same form over plain numbers, not over two branches."""


def extrapolations(tree: ast.AST) -> Iterator[str]:
    """Expressions a + k·(b − a), whatever the names: what the combination of two branches looks like."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
            continue
        for base, product in ((node.left, node.right), (node.right, node.left)):
            factors = (product.left, product.right) if isinstance(product, ast.BinOp) else ()
            differences = [f for f in factors if isinstance(f, ast.BinOp) and isinstance(f.op, ast.Sub)]
            if any(ast.unparse(difference.right) == ast.unparse(base) for difference in differences):
                yield ast.unparse(node)


def branch_stackings(tree: ast.AST) -> Iterator[str]:
    """Concatenations of a tensor with itself, or with what is made of the null class: a batch of both branches."""
    for node in ast.walk(tree):
        name = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if name in ("cat", "concatenate", "concat", "stack", "vstack") and node.args:
            parts = [ast.unparse(e) for e in getattr(node.args[0], "elts", ())]
            if len(set(parts)) < len(parts) or any("null" in part for part in parts):
                yield ast.unparse(node)


def halvings(tree: ast.AST) -> Iterator[str]:
    """Tensors cut in two in one function, v[:m] and v[m:] with a computed m, or by chunk(2): a batch taken apart."""
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        slices = [n for n in ast.walk(function) if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.Slice)]
        ends = {(ast.unparse(n.value), ast.unparse(n.slice.upper)) for n in slices if n.slice.upper}
        starts = {(ast.unparse(n.value), ast.unparse(n.slice.lower)) for n in slices if n.slice.lower}
        yield from (f"{value}[:{m}], {value}[{m}:]" for value, m in ends & starts if not m.isdigit())
        calls = [ast.unparse(n) for n in ast.walk(function) if isinstance(n, ast.Call)]
        yield from (call for call in calls if re.search(r"\.(chunk|tensor_split|split)\(2\b", call))


def test_only_guidance_combines_branches_stacks_them_and_takes_them_apart() -> None:
    seen: dict[str, set[str]] = {}
    for path in FILES:
        tree = ast.parse(path.read_text())
        for code in (*extrapolations(tree), *branch_stackings(tree), *halvings(tree)):
            seen.setdefault(str(path.relative_to(PACKAGE)), set()).add(code)
    guidance = seen.pop("diffusion/guidance.py") - NUMBERS
    assert {code.split("(")[0] for code in guidance} == {
        "uncond + w.to",  # combine
        "torch.cat",  # stack
        "stacked[:batch_size], stacked[batch_size:]",  # split
    }
    assert seen.pop("data/images.py") == {"order[:cut], order[cut:]"}  # training images and held-out ones
    assert {code for codes in seen.values() for code in codes} <= NUMBERS, seen


@pytest.mark.parametrize(
    ("code", "found_by"),
    [
        ("def f(a, b, k): return k.view(-1) * (b - a) + a", extrapolations),
        ("def f(u, c, s):\n    return u + (c - u) * s", extrapolations),
        ("def f(images): return np.concatenate([images, images])", branch_stackings),
        ("def f(y, k): return torch.cat([torch.full_like(y, self.null_class), y])", branch_stackings),
        ("def f(out):\n    half = len(out) // 2\n    return out[half:] - out[:half]", halvings),
        ("def f(out): return out.chunk(2)", halvings),
    ],
)
def test_that_check_knows_other_spellings(code: str, found_by: Callable[[ast.AST], Iterator[str]]) -> None:
    assert list(found_by(ast.parse(code)))
