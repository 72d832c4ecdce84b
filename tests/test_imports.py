"""Optional parts are imported when they are used, and not before."""

from __future__ import annotations

import subprocess
import sys

BLOCKED = (
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "polygraphy",
    "openvino",
    "torch_pruning",
    "nncf",
)
# onnx is a requirement of the package, but it is export's alone: whatever does not export starts without it.
MAY_NEED_ONNX = (
    *("dashdeploy.export.", "dashdeploy.packages.", "dashdeploy.pipeline", "dashdeploy.preflight.examine"),
    "dashdeploy.compare.compare",
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_every_module_imports_without_the_optional_parts() -> None:
    done = python(
        f"""
import importlib, importlib.abc, importlib.machinery, pkgutil, sys

class Block(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    # Others (diffusers) may look whether a module is there; importing it is what fails.
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            return importlib.machinery.ModuleSpec(name, self)

    def exec_module(self, module):
        raise ImportError(module.__name__ + " is blocked")

sys.meta_path.insert(0, Block())
import dashdeploy
names = [m.name for m in pkgutil.walk_packages(dashdeploy.__path__, "dashdeploy.") if m.name != "dashdeploy.__main__"]
assert len(names) > 60, names
failed = {{}}
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
assert all(name.startswith({MAY_NEED_ONNX!r}) for name in failed), failed
assert "dashdeploy.export.export" in failed and set(failed.values()) == {{"onnx is blocked"}}, failed
"""
    )
    assert done.returncode == 0, done.stderr


def test_the_package_itself_imports_nothing_heavy() -> None:
    done = python(
        "import sys, dashdeploy; heavy = {'torch', 'numpy', 'onnx', 'pydantic', 'diffusers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_runtime_is_one_line_with_the_install_command() -> None:
    lines = (
        "import sys; sys.modules['onnxruntime'] = None",
        "from dashdeploy.lazy import require",
        "require('onnxruntime', extra='cpu')",
    )
    done = python("\n".join(lines))
    assert "pip install 'dashdeploy[cpu]'" in done.stderr
