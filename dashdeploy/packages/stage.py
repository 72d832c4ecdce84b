"""The package stage: an artifact, exported first where it is not there yet, and the files around it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from dashdeploy import checked, locate, signing, stages
from dashdeploy import manifest as manifests
from dashdeploy.artifact import Backend, BatchRange, GraphName
from dashdeploy.errors import UserError
from dashdeploy.export import export as artifacts
from dashdeploy.lazy import resolve
from dashdeploy.packages import PACKAGES, Writer, diffusers
from dashdeploy.packages.schema import Package
from dashdeploy.recipe.load import recipe_in
from dashdeploy.recipe.schema import Guidance, Recipe, Sampling, Solver
from dashdeploy.runtime.opening import ARTIFACTS
from dashdeploy.signing import SecretKey
from dashdeploy.target import Profile, Target, load_target

FOLDER = "packages"


def carry_out(
    run_folder: Path,
    what: Target | Package,
    *,
    sampling: Sampling | None = None,
    fresh: bool = False,
    sign_with: SecretKey | None = None,
    guidance: Guidance | None = None,
) -> stages.Stage:
    """Export a target, or write a package.

    Args:
        sampling: see `export.export`.
        guidance: the scale that a package for diffusers folds into a student of one branch. None: of two.
        sign_with: signs what is written, a package's artifact too; None: an artifact that has a signature keeps it.

    Raises:
        UserError: see `export.export` and `write_package`.
    """
    if isinstance(what, Package) and what.artifact is None:
        return _signed(write_plain(run_folder, what, sampling=sampling, fresh=fresh, guidance=guidance), sign_with)
    if isinstance(what, Package):
        return write_package(run_folder, what, sampling=sampling, fresh=fresh, sign_with=sign_with)
    return _signed(artifacts.export(run_folder, what, sampling=sampling, fresh=fresh), sign_with)


def place(what: Target | Package) -> str:
    """The folder of a run that it is written into."""
    return FOLDER if isinstance(what, Package) else ARTIFACTS


def write_package(
    run_folder: Path,
    package: Package,
    *,
    sampling: Sampling | None = None,
    fresh: bool = False,
    sign_with: SecretKey | None = None,
) -> stages.Stage:
    """Write run_folder/packages/<name>, or return the current one. sampling, sign_with: see `carry_out`.

    Raises:
        UserError: the artifact cannot be exported, or does not fit the package.
    """
    assert package.artifact is not None
    artifact = carry_out(run_folder, load_target(package.artifact), sampling=sampling, fresh=fresh, sign_with=sign_with)
    manifest = manifests.read(artifact)
    graphs = manifest.artifact.graphs
    engines = [graph.engine for graph in graphs.values() if graph.engine is not None]
    writer, templates = refuse(
        package,
        str(artifact.folder),
        solver=manifest.artifact.sampling.solver,
        backend=manifest.artifact.backend,
        graphs=graphs,
        profiles=engines[0].profiles if engines else (),
    )
    folder = run_folder / FOLDER / package.name
    inputs = {"artifact": artifact.sha256, "package": package.model_dump(mode="json")}
    if (signature := artifact.folder / checked.SIGNATURE).is_file():
        inputs["signature"] = stages.file_sha256(signature)
    recipe = recipe_in({"recipe": manifest.recipe}, source=artifact.folder / stages.MANIFEST)
    made = _made(
        folder,
        recipe,
        inputs,
        templates,
        source=artifact,
        fresh=fresh,
        write=lambda destination: writer.write(destination, artifact.folder, manifest),
    )
    return _signed(made, sign_with)


def write_plain(
    run_folder: Path,
    package: Package,
    *,
    sampling: Sampling | None = None,
    fresh: bool = False,
    guidance: Guidance | None = None,
) -> stages.Stage:
    """Write run_folder/packages/<name> of the student itself, or return the current one; see `carry_out`.

    Raises:
        UserError: see `diffusers.refuse` and `diffusers.write`.
    """
    stages.mend(run_folder)
    student = stages.read_stage(run_folder / "student")
    recipe = recipe_in(student.manifest, source=student.folder / stages.MANIFEST)
    recipe = recipe if sampling is None else recipe.model_copy(update={"sampling": sampling})
    diffusers.refuse(package, recipe, guidance)
    w = guidance if isinstance(guidance, float | int) else None
    folder, templates = run_folder / FOLDER / package.name, locate.data_root("exporters") / package.package.kind
    inputs = {"student": student.sha256, "package": package.model_dump(mode="json"), "guidance": w}
    return _made(
        folder,
        recipe,
        inputs,
        templates,
        source=student,
        fresh=fresh,
        write=lambda destination: diffusers.write(destination, student, recipe, w, templates),
    )


def _made(
    folder: Path,
    recipe: Recipe,
    inputs: dict[str, Any],
    templates: Path,
    *,
    source: stages.Stage,
    fresh: bool,
    write: Callable[[Path], dict[str, Any]],
) -> stages.Stage:
    """The package in `folder`, written unless it is current.

    Args:
        source: the stage that it is made from, which must not change meanwhile.
        write: fills the new folder that it is given, and returns the stage's figures.
    """
    key = stages.stage_key("package", recipe, {**inputs, "templates": stages.folder_sha256(templates)})
    done = None if fresh else stages.finished(folder, key)
    if done is not None:
        return done
    with (
        stages.exclusive(folder) as work,
        stages.write_stage(folder, work, key=key, recipe=recipe, inputs=inputs) as draft,
    ):
        draft.figures.update(write(draft.folder))
        stages.refuse_if_replaced(source)
    return stages.read_stage(folder)


def _signed(stage: stages.Stage, key: SecretKey | None) -> stages.Stage:
    if key is not None:
        signing.sign(stage, key)
    return stage


def refuse(
    package: Package,
    source: str,
    *,
    solver: Solver,
    backend: Backend,
    graphs: Collection[GraphName],
    profiles: Sequence[Profile | BatchRange],
) -> tuple[Writer, Path]:
    """The package's writer and templates, or why it cannot carry an artifact, as of a solver that no graph holds.

    Args:
        source: what messages call the artifact; the others are what its target or its manifest says of it.

    Raises:
        UserError: it names what does not fit, and what to do.
    """
    if solver == "dpmpp_2m":
        raise UserError(
            f"{source}: its recipe samples with {solver}, and packages run DDIM: their step and sampler "
            "graphs hold its update, and the loop in C++ too. Set sampling.solver to ddim in the recipe, or run the "
            "artifact by dashdeploy.runtime."
        )
    templates = locate.data_root("exporters") / package.package.kind
    writer: Writer = resolve("package", PACKAGES, package.package.kind)(package, templates)
    writer.fits(source, backend, graphs, profiles)
    return writer, templates


def refuse_same_names(wanted: Sequence[Target | Package]) -> None:
    """Refuse two targets or packages of one name: the second would replace the first.

    Raises:
        UserError: it gives the name.
    """
    names = [what.name for what in wanted]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--to: two targets are called {', '.join(twice)}; an artifact's folder is its target's name")


def summary(stage: stages.Stage) -> str:
    """One line of what was exported or written."""
    if "package" not in stage.manifest["inputs"]:
        return artifacts.summary(stage)
    kind = stage.manifest["inputs"]["package"]["package"]["kind"]
    return f"{stage.folder}  {kind}, {len(stage.manifest['files'])} files; its README.md says how to use it"
