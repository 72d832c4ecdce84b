"""Compile the runtime for browsers, exporters/web/src, into exporters/web/dist, which is committed.

python tools/web_build.py            # write dist
python tools/web_build.py --check    # exit 1 if it is stale; without the compiler it says so and checks nothing
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "exporters" / "web"
COMMAND = "python tools/web_build.py"


def compiler() -> list[str] | None:
    """TypeScript's compiler as tools/web_setup.py installs it; None: it is not here."""
    node = shutil.which("node")
    for top in (Path(sys.prefix), ROOT / ".venv"):
        program = top / "web" / "node_modules" / "typescript" / "bin" / "tsc"
        if node is not None and program.is_file():
            return [node, str(program)]
    return None


def compiled(command: list[str], sources: Path = WEB) -> dict[str, bytes]:
    """Name -> content of what the sources compile to.

    Raises:
        SystemExit: they do not; the compiler has said why.
    """
    with tempfile.TemporaryDirectory() as name:
        # In a copy: source maps hold the way from the output to the sources.
        shutil.copytree(sources / "src", Path(name) / "src")
        shutil.copyfile(sources / "tsconfig.json", Path(name) / "tsconfig.json")
        done = subprocess.run([*command, "-p", name], check=False)
        if done.returncode != 0:
            raise SystemExit(f"{sources}: TypeScript does not take it")
        return read(Path(name) / "dist")


def read(folder: Path) -> dict[str, bytes]:
    """Name -> content of a folder's files."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


def main(arguments: Sequence[str] | None = None) -> int:
    """1: stale, with --check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if dist is stale")
    check = parser.parse_args(arguments).check
    command = compiler()
    if command is None:
        print("exporters/web/dist: not looked at: TypeScript is not here (python tools/web_setup.py)", file=sys.stderr)
        return 0 if check else 1
    made, there = compiled(command), read(WEB / "dist")
    if check:
        stale = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
        if stale:
            print(f"stale: {', '.join(stale)} in exporters/web/dist. Run: {COMMAND}", file=sys.stderr)
        return 1 if stale else 0
    shutil.rmtree(WEB / "dist", ignore_errors=True)
    (WEB / "dist").mkdir()
    for name, content in made.items():
        (WEB / "dist" / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
