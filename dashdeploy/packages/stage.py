"""The package stage: an artifact, exported first where it is not there yet, and what is written around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from dashdeploy import locate, stages
from dashdeploy.errors import UserError
from dashdeploy.export import describe
from dashdeploy.export import export as artifacts
from dashdeploy.lazy import resolve
from dashdeploy.package import Package
from dashdeploy.recipe.schema import Recipe
from dashdeploy.runtime.opening import ARTIFACTS
from dashdeploy.target import Target, load_target

PACKAGES: dict[str, str] = {
    "cpp": "dashdeploy.packages.cpp:Writer",
    "triton": "dashdeploy.packages.triton:Writer",
}
"""Kind of package -> ``(package, template folder) -> Writer``."""
FOLDER = "packages"


class Writer(Protocol):
    """One kind of package."""

    def check(self, artifact: stages.Stage) -> None:
        """Refuse an artifact that this package cannot carry.

        Raises:
            UserError: it says which artifacts fit.
        """

    def write(self, folder: Path, artifact: stages.Stage, recipe: Recipe) -> dict[str, Any]:
        """Write its files, the artifact's among them, into an empty folder; returns figures for the manifest."""


def carry_out(run_folder: Path, what: Target | Package, *, fresh: bool = False) -> stages.Stage:
    """Export a target, or write a package.

    Raises:
        UserError: see `export.export` and `write_package`.
    """
    if isinstance(what, Package):
        return write_package(run_folder, what, fresh=fresh)
    return artifacts.export(run_folder, what, fresh=fresh)


def place(what: Target | Package) -> str:
    """The folder of a run that it is written into."""
    return FOLDER if isinstance(what, Package) else ARTIFACTS


def write_package(run_folder: Path, package: Package, *, fresh: bool = False) -> stages.Stage:
    """Write run_folder/packages/<name>, or return what is there already.

    Raises:
        UserError: the artifact cannot be exported, or does not fit the package.
    """
    artifact = artifacts.export(run_folder, load_target(package.artifact), fresh=fresh)
    templates = locate.data_root("exporters") / package.package.kind
    writer: Writer = resolve("package", PACKAGES, package.package.kind)(package, templates)
    require_ddim(artifact)
    writer.check(artifact)
    folder = run_folder / FOLDER / package.name
    inputs = {"artifact": artifact.sha256, "package": package.model_dump(mode="json")}
    recipe = Recipe.model_validate(artifact.manifest["recipe"])
    key = stages.stage_key("package", recipe, {**inputs, "templates": stages.folder_sha256(templates)})
    done = None if fresh else stages.current(folder, key)
    if done is not None:
        return done
    folder.parent.mkdir(exist_ok=True)
    with stages.write_stage(folder, key=key, recipe=recipe, inputs=inputs) as draft:
        draft.figures.update(writer.write(draft.folder, artifact, recipe))
    return stages.read_stage(folder)


def require_ddim(artifact: stages.Stage) -> None:
    """Refuse an artifact whose recipe samples with another solver: what a package runs holds DDIM's update.

    Raises:
        UserError: it names the solver, and what to do.
    """
    solver = describe.solver(artifact.manifest["artifact"])
    if solver != "ddim":
        raise UserError(
            f"{artifact.folder}: its recipe samples with {solver}, and packages run DDIM: their step and sampler "
            "graphs hold its update, and the loop in C++ too. Set sampling.solver to ddim in the recipe, or run the "
            "artifact by dashdeploy.runtime."
        )


def summary(stage: stages.Stage) -> str:
    """One line of what was exported or written."""
    if "package" not in stage.manifest["inputs"]:
        return artifacts.summary(stage)
    kind = stage.manifest["inputs"]["package"]["package"]["kind"]
    return f"{stage.folder}  {kind}, {len(stage.manifest['files'])} files; its README.md says how to use it"
