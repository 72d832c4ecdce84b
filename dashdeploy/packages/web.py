"""The web package: an artifact, the runtime for browsers, a page and a service worker, served as plain files."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dashdeploy import __version__
from dashdeploy.artifact import Artifact, Backend, BatchRange, GraphName
from dashdeploy.errors import UserError
from dashdeploy.locate import expanded
from dashdeploy.manifest import Manifest
from dashdeploy.packages import Writer, onnxruntime_web
from dashdeploy.packages.carry import carry
from dashdeploy.packages.schema import Package, Web
from dashdeploy.packages.template import render
from dashdeploy.target import Profile

ARTIFACT = "artifact"
RUNTIME = "ort"
BUILT = "dist"
"""In exporters/web/: what tools/web_build.py compiles, JavaScript with its types and source maps."""
LICENCE = "onnxruntime-web.LICENSE.txt"
"""Of what lies in ort/; the npm package has none in it."""
FILES = "files.js"
ROOTS = ("index.html", FILES)
"""Files that no hash stands for: the page itself, and what it vouches for."""
VOUCHED = (FILES, "start.js", "page.css")
"""Files whose hashes are in the page."""
UNSERVED = (".d.ts", ".map", ".md", ".txt")
"""Ends of names of files that a page does not load."""
FITTING = "onnx-cpu or onnx-cpu-int8"
PRECISIONS = ("fp32", "int8")


class WebWriter(Writer):
    """Copies the runtime and the artifact, whole, and writes the page and the list of what it loads."""

    def __init__(self, package: Package, templates: Path) -> None:
        assert isinstance(package.package, Web)
        self.package, self.settings, self.templates = package, package.package, templates

    def fits(
        self, source: str, backend: Backend, graphs: Collection[GraphName], profiles: Sequence[Profile | BatchRange]
    ) -> None:
        """Refuse an artifact of another backend, and a package whose onnxruntime-web cannot be had.

        Raises:
            UserError: it names artifacts that fit, or says how to get the files.
        """
        if backend != "onnxruntime":
            raise UserError(
                f"{source}: a browser runs artifacts for onnxruntime, and this one is for {backend}. In "
                f"{self.package.name}, set artifact to {FITTING}."
            )
        onnxruntime_web.refuse(self._backends, self._own)

    @property
    def _backends(self) -> tuple[onnxruntime_web.Backend, ...]:
        return ("wasm", "webgpu") if self.settings.webgpu else ("wasm",)

    @property
    def _own(self) -> Path | None:
        return None if self.settings.onnxruntime_web is None else expanded(self.settings.onnxruntime_web)

    def write(self, destination: Path, folder: Path, manifest: Manifest) -> dict[str, Any]:
        """The page, its code, ort/ and artifact/; returns the bytes that a page loads and ONNX Runtime's version."""
        artifact = manifest.artifact
        self._refuse(str(folder), artifact)
        onnxruntime_web.write(destination / RUNTIME, self._backends, self._own)
        shutil.copyfile(self.templates / LICENCE, destination / RUNTIME / "LICENSE.txt")
        shutil.copytree(self.templates / BUILT, destination, dirs_exist_ok=True)
        shutil.copyfile(self.templates / "page.css", destination / "page.css")
        carry(folder, manifest, destination / ARTIFACT)
        recipe = manifest.recipe["name"]
        (destination / "package.json").write_text(_npm(recipe), encoding="utf-8")
        values = {**self._values(manifest), "title": self.settings.title or recipe}
        (destination / "README.md").write_text(render(self.templates, "README.md", values), encoding="utf-8")
        self._page(destination, values)
        loaded = sum((destination / name).stat().st_size for name in served(destination))
        return {"loaded_bytes": loaded, "onnxruntime_web": onnxruntime_web.VERSION}

    def _refuse(self, source: str, artifact: Artifact) -> None:
        """Refuse what no browser runs, and what no page can show.

        Raises:
            UserError: it says why.
        """
        if artifact.providers[0] != "CPUExecutionProvider":
            raise UserError(
                f"{source}: the artifact is for ONNX Runtime's {artifact.providers[0]}, which no browser has. In "
                f"{self.package.name}, set artifact to {FITTING}."
            )
        for what, precision in (
            ("", artifact.precision),
            ("decoder's ", artifact.decoder and artifact.decoder.precision),
        ):
            if precision is not None and precision not in PRECISIONS:
                raise UserError(
                    f"{source}: the {what}precision is {precision}, and WebAssembly has kernels for "
                    f"{' and '.join(PRECISIONS)} alone. In {self.package.name}, set artifact to {FITTING}."
                )
        shape = artifact.drawn_shape
        if (artifact.latents and artifact.decoder is None) or shape[0] not in (1, 3):
            raise UserError(
                f"{source}: it draws {'latents' if artifact.latents else 'images'} of {shape[0]} channels and has no "
                "decoder, so there is no picture to show. Add the graph decoder to its target."
            )

    def _values(self, manifest: Manifest) -> dict[str, Any]:
        """What README.md's names stand for."""
        artifact = manifest.artifact
        guidance = artifact.sampling.guidance
        return {
            "recipe": manifest.recipe["name"],
            "target": manifest.stage,
            "precision": artifact.precision,
            "w": f"{guidance if isinstance(guidance, float | int) else artifact.sampling.guidance_scales[0]:g}",
            "shape": f"(3, {', '.join(map(str, artifact.drawn_shape))})",
            "version": onnxruntime_web.VERSION,
            "webgpu": self.settings.webgpu,
        }

    def _page(self, destination: Path, values: dict[str, Any]) -> None:
        """index.html, and files.js with the hash of every file that it loads. Each vouches for what comes after it."""
        hashes = {name: _sha256(destination / name).hex() for name in served(destination)}
        blank = render(self.templates, "index.html", {**values, "integrity": dict.fromkeys(VOUCHED, "")})
        version = hashlib.sha256(json.dumps([hashes, blank]).encode()).hexdigest()
        listed = {"version": version, "files": {**dict.fromkeys(ROOTS, ""), **hashes}}
        text = f"// What this package is made of: file -> SHA-256.\nself.DASHDEPLOY = {json.dumps(listed, indent=2)};\n"
        (destination / FILES).write_text(text, encoding="utf-8")
        integrity = {name: "sha256-" + base64.b64encode(_sha256(destination / name)).decode() for name in VOUCHED}
        page = render(self.templates, "index.html", {**values, "integrity": integrity})
        (destination / "index.html").write_text(page, encoding="utf-8")


def served(folder: Path) -> list[str]:
    """The files that a page loads, or keeps for offline use, as paths in the package; without `ROOTS`."""
    paths = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in paths if not name.endswith(UNSERVED) and name not in (*ROOTS, "package.json")]


def _sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _npm(name: str) -> str:
    """package.json: what onnxruntime-web this is, and what Node needs."""
    described = {
        "name": name,
        "version": __version__,
        "private": True,
        "type": "module",
        "exports": {".": {"types": "./dashdeploy.d.ts", "default": "./dashdeploy.js"}},
        "engines": {"node": ">=20"},
        "dependencies": {"onnxruntime-web": onnxruntime_web.VERSION},
        "peerDependencies": {"onnxruntime-node": onnxruntime_web.VERSION},
        "peerDependenciesMeta": {"onnxruntime-node": {"optional": True}},
    }
    return json.dumps(described, indent=2) + "\n"
