"""Set up what the tests of the web package use: python tools/web_setup.py FOLDER

FOLDER gets node_modules with TypeScript, Playwright, onnxruntime-web and onnxruntime-node, pinned, by npm; no script of
theirs is run. Chromium comes from Debian's packages, where it is missing and this user may install it. What cannot be
had is a warning: its tests are skipped and say why.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv" / "web"
PACKAGES = {
    "onnxruntime-node": "1.30.0",
    "onnxruntime-web": "1.30.0",
    "playwright-core": "1.65.1",
    "typescript": "7.0.2",
}
OLDEST_NODE = 20
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SYSTEMS = {"linux": "linux", "darwin": "darwin", "win32": "win32"}
MACHINES = {"x86_64": "x64", "AMD64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def missing_node() -> str | None:
    """Why npm's packages cannot be installed; None if they can."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "Node.js or its npm is not here (Debian: apt-get install nodejs npm)"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    if not version.removeprefix("v").split(".")[0].isdigit() or int(version[1:].split(".")[0]) < OLDEST_NODE:
        return f"Node.js {OLDEST_NODE} or newer is needed, and this is {version or 'none that says its version'}"
    return None


def install(folder: Path) -> str | None:
    """Install the packages into a folder, whole or not at all; why they could not be, or None."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".web-") as name:
        draft = Path(name) / "made"
        draft.mkdir()
        (draft / "package.json").write_text(json.dumps({"private": True, "dependencies": PACKAGES}, indent=2) + "\n")
        npm = shutil.which("npm") or "npm"
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=draft, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"npm could not install its packages ({' '.join(done.stderr.split())[:300]})"
        keep_this_platform(draft / "node_modules" / "onnxruntime-node" / "bin")
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    return None


def keep_this_platform(binaries: Path) -> None:
    """Remove onnxruntime-node's libraries for other systems, 200 MB; its package holds all of them."""
    ours = (SYSTEMS.get(sys.platform), MACHINES.get(platform.machine()))
    for path in binaries.glob("napi-*/*/*"):
        if (path.parent.name, path.name) != ours:
            shutil.rmtree(path)


def missing_browser() -> str | None:
    """Why there is no Chromium; None if there is one, or there is one now."""
    if any(shutil.which(name) for name in BROWSERS):
        return None
    advice = "there is no Chromium (Debian: apt-get install chromium)"
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return advice
    print("Installing Chromium by apt-get", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = [apt, "install", "-y", "--no-install-recommends", "-qq", "chromium"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"{advice}: apt-get said: {' '.join(done.stderr.split())[-200:]}"


def main() -> int:
    """0, whatever could be had."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    problem = missing_node() or install(folder)
    if problem is None:
        print(f"npm packages of the web tests in {folder}", file=sys.stderr)
    for reason in (problem, missing_browser()):
        if reason is not None:
            print(f"No web tests: {reason}. They will be skipped.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
