"""What a run will need, looked at in seconds before its first stage starts: every problem at once, one line each.

The rules are the stages' own: each function that refuses something is called here, and again where its stage begins.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from dashdeploy import ranks, stages
from dashdeploy.artifact import TENSORRT
from dashdeploy.bench.bench import check_measurable
from dashdeploy.data import load_stored, pictures_of, trained_on
from dashdeploy.data.encode import autoencoder_of
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.diffusion.sampling import plan
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.diffusion.terminal_snr import amplified
from dashdeploy.errors import UserError
from dashdeploy.export import decoder, export
from dashdeploy.export.backends import BACKENDS, Backend
from dashdeploy.lazy import require as require_module
from dashdeploy.lazy import resolve
from dashdeploy.locate import expanded
from dashdeploy.metrics import features, reference
from dashdeploy.packages import diffusers
from dashdeploy.packages import schema as packages
from dashdeploy.packages.schema import Package
from dashdeploy.packages.stage import place, refuse_same_names
from dashdeploy.packages.stage import refuse as refuse_package
from dashdeploy.preflight import other_latents
from dashdeploy.preflight.facts import STEPS, Facts, Step, follow, manifest_of, note, sha256
from dashdeploy.preflight.room import existing, refuse_full
from dashdeploy.recipe.architecture import Architecture
from dashdeploy.recipe.schema import Guidance, Recipe
from dashdeploy.recipe.schema import NoiseSchedule as NoiseSection
from dashdeploy.students import finished
from dashdeploy.students.architecture import StudentDesign, design
from dashdeploy.target import Target, load_target
from dashdeploy.teachers import choose, networks, unet2d, untrained
from dashdeploy.training import bank, hints, teach
from dashdeploy.training.accelerator import make_accelerator
from dashdeploy.training.distill import inputs_of
from dashdeploy.training.student import live_source, other_prediction, own_keys, refuse_start, student_prediction
from dashdeploy.training.timestep_weights import transfer


def require(recipe: Recipe, run_folder: Path, *, wanted: tuple[Step, ...] = STEPS, fresh: bool = False) -> Facts:
    """What `examine` finds, if nothing stands against the run. Of several processes all look, and the main one tells.

    Raises:
        UserError: all problems, a line each.
        SystemExit: in another process than the main one, where any of them has found a problem.
    """
    facts = examine(recipe, run_folder, wanted=wanted, fresh=fresh)
    refuse(facts.problems)
    return facts


def refuse(problems: list[str]) -> None:
    """Raise if there are problems, here or in another process of this launch; see `require`."""
    here = ranks.state()
    if here.num_processes > 1:
        problems = list(dict.fromkeys(gather_object(problems)))
    if not problems:
        return
    if not here.is_main_process:
        raise SystemExit(2)
    if len(problems) == 1:
        raise UserError(problems[0])
    raise UserError(f"{len(problems)} problems, and nothing was started:" + "".join(f"\n  {p}" for p in problems))


def examine(
    recipe: Recipe, run_folder: Path, *, wanted: tuple[Step, ...] = STEPS, fresh: bool = False, start_there: bool = True
) -> Facts:
    """Look at all that the wanted steps will need, without making or writing anything.

    Args:
        fresh: every stage but the teacher will be made again.
        start_there: the run that the student begins with is finished; else nothing is looked at there.
    """
    facts = Facts()
    if "bench" in wanted:
        facts.check(check_measurable, recipe)
    facts.check(_writable, run_folder)
    facts.stored = facts.check(load_stored, recipe.data)
    if facts.stored is not None and facts.check(other_latents.refuse, facts.stored, recipe, run_folder, wanted):
        facts.data = facts.check(trained_on, facts.stored, recipe.data)
    if facts.data is not None:
        facts.check(facts.data.split, recipe.data.holdout)
        facts.check(autoencoder_of, recipe.data, facts.data)
    if set(wanted) != {"bench"}:
        _teacher(facts, recipe, run_folder, wanted, replace=fresh and "distill" not in wanted)
    elif known := facts.check(networks.load_schedule, run_folder / "student", "student"):
        facts.schedule, _ = known
    if facts.schedule is not None:
        steps = facts.check(plan, recipe.sampling, facts.schedule.num_train_timesteps)
        predicts = recipe.student.prediction_type or (
            facts.teacher.denoiser.interface.prediction if facts.teacher else "epsilon"
        )
        if steps is not None and (told := amplified(steps, facts.schedule, predicts)):
            facts.warnings.append(told)
    if {"distill", "export"} & set(wanted):
        _student(facts, recipe, run_folder, wanted, fresh=fresh, start_there=start_there)
    if "export" in wanted:
        _exports(facts, recipe, run_folder, recipe.export, fresh=fresh, guidance=None)
    if "bench" in wanted:
        _bench(facts, recipe, run_folder, fresh=fresh)
    facts.check(refuse_full, facts, recipe, run_folder, wanted)
    return facts


def _writable(run_folder: Path) -> None:
    there = existing(run_folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"run folder {run_folder}: {there} cannot be written to. Choose another with --run-dir.")


def _teacher(facts: Facts, recipe: Recipe, run_folder: Path, wanted: tuple[Step, ...], *, replace: bool) -> None:
    """The teacher at hand, or the one that will be trained; replace: in any case, in the place of a finished one."""
    data, folder = facts.data, facts.check(choose.find, recipe, run_folder)
    trains = "teach" in wanted and recipe.teacher.path is None and recipe.teach is not None
    if trains and data is not None:
        schedule = facts.check(schedules.from_recipe, recipe.noise_schedule or NoiseSection())
        if schedule is None:
            return
        inputs = teach.inputs_of(recipe, data, schedule)
        made = run_folder / "teacher"
        note(facts, "teacher", made, "teacher", recipe, inputs)
        if replace or facts.to_make("teacher"):
            if not replace:
                facts.check(stages.refuse_to_replace, made, "teacher", recipe, inputs)
            facts.check(choose.refuse_without_null_class, recipe)
            _new_teacher(facts, recipe, run_folder, data, schedule)
            return
    if folder is None:
        if recipe.teacher.path is None and not trains:
            facts.problems.append(str(choose.not_trained(recipe)))
        return
    if data is not None:
        facts.teacher = facts.check(choose.open_teacher, folder, recipe, data)
    if facts.teacher is not None:
        denoiser = facts.teacher.denoiser
        facts.config, facts.schedule = networks.config_of(denoiser.unet), denoiser.interface.schedule
        facts.check(transfer, recipe.distill.timestep_weights, facts.schedule, folder)


def _new_teacher(facts: Facts, recipe: Recipe, run_folder: Path, data: LabelledImages, schedule: NoiseSchedule) -> None:
    assert recipe.teach is not None
    facts.check(make_accelerator, recipe.teach, work=run_folder)
    before, section = len(facts.problems), recipe.teach
    config = facts.check(untrained.config_of, section, image_shape=data.image_shape, num_classes=data.num_classes)
    if config is None:
        return
    network, key = config["_class_name"], "teach.architecture" if section.dit is None else "teach.dit"
    facts.check(networks.refuse_huge, config, network=network, what=f"{key}:")
    if len(facts.problems) == before:
        facts.check(networks.try_forward, config, network=network, what=key)
    if len(facts.problems) == before:
        facts.config, facts.schedule = config, schedule


def _student(
    facts: Facts, recipe: Recipe, run_folder: Path, wanted: tuple[Step, ...], *, fresh: bool, start_there: bool
) -> None:
    """The student's network, and what its training needs where it is not finished."""
    config, given = facts.config, recipe.student.architecture
    if config is None:
        return
    if given is not None and facts.data is not None and not facts.check(_possible, given, facts.data):
        return
    own = facts.check(own_keys, recipe, facts.schedule.num_train_timesteps) if facts.schedule is not None else {}
    if own is None:
        return
    facts.student = facts.check(design, recipe.student, config, own)
    if facts.student is None or "distill" not in wanted:
        return
    if start_there and facts.teacher is not None and facts.data is not None:
        known = facts.check(inputs_of, recipe, facts.data, facts.teacher, facts.student)
        if known is None:
            return
        inputs = known[1]
        made = run_folder / "student"
        note(facts, "student", made, "student", recipe, inputs)
        if fresh:
            facts.reasons["student"] = ["--fresh"]
        elif facts.to_make("student"):
            facts.check(stages.refuse_to_replace, made, "student", recipe, inputs)
    if facts.to_make("student"):
        _training(facts, recipe, run_folder, facts.student, start_there=start_there)


def _possible(given: Architecture, data: LabelledImages) -> bool:
    """True; a student's UNet that images cannot pass, or memory cannot hold, is refused before it is made."""
    unet2d.check_levels(given, data.image_shape)
    config = unet2d.unet_config(given, image_shape=data.image_shape, num_classes=data.num_classes)
    networks.refuse_huge(config, what="student.architecture:")
    return True


def _training(facts: Facts, recipe: Recipe, run_folder: Path, student: StudentDesign, *, start_there: bool) -> None:
    config = recipe.distill
    assert facts.config is not None
    facts.check(networks.refuse_parameters, student.parameters, what="the student:")
    facts.check(networks.try_forward, student.config, network=student.network, what="the student")
    facts.check(make_accelerator, config, work=run_folder)
    if config.objective.hint_weight:
        for name in (facts.config.get("_class_name", networks.UNET), student.network):
            facts.check(hints.refuse, name)
    if facts.teacher is not None:
        facts.check(student_prediction, recipe, facts.teacher.denoiser)
        if start_there:
            facts.check(refuse_start, recipe, facts.teacher.denoiser)
            if told := facts.check(other_prediction, recipe, facts.teacher.denoiser):
                facts.warnings.append(told)
    if recipe.student.init.kind == "pruned" and student.network == networks.UNET:
        facts.check(require_module, "torch_pruning", extra="prune")
    if recipe.student.init.kind == "run" and start_there:
        facts.check(finished.begin, recipe.student.init, student)
    if config.teacher_bank and config.objective.needs_teacher and facts.teacher and facts.data and not facts.problems:
        live = live_source(recipe, facts.data, facts.teacher.denoiser)
        size = bank.bank_bytes(config.teacher_bank, live, torch.device("cpu"))
        facts.check(bank.refuse_large, config.teacher_bank, size)


def require_targets(
    recipe: Recipe, run_folder: Path, names: Sequence[str], *, fresh: bool = False, guidance: Guidance | None = None
) -> None:
    """What stands against an export of a finished student to any of the named targets, before the first is made.

    Args:
        guidance: see `packages.stage.carry_out`.

    Raises:
        UserError: all problems, a line each.
    """
    facts = Facts(reasons={"student": []})
    _exports(facts, recipe, run_folder, names, fresh=fresh, guidance=guidance)
    refuse(facts.problems)


def _exports(
    facts: Facts, recipe: Recipe, run_folder: Path, names: Sequence[str], *, fresh: bool, guidance: Guidance | None
) -> None:
    """Each target and package, and its place among the others."""
    found = [what for name in dict.fromkeys(names) if (what := facts.check(packages.load, name)) is not None]
    facts.check(refuse_same_names, found)
    for what in found:
        folder = run_folder / place(what) / what.name
        name = str(folder.relative_to(run_folder))
        facts.check(diffusers.refuse, what, recipe, guidance)
        inputs: dict[str, Any] = {"student": sha256(run_folder / "student")}
        if isinstance(what, Target):
            target: Target | None = what
        elif what.artifact is None:
            made_of = {**inputs, "package": what.model_dump(mode="json"), "guidance": guidance}
            note(facts, name, folder, "package", recipe, made_of)
            follow(facts, name, "student", fresh=fresh)
            continue
        else:
            target = facts.check(load_target, what.artifact)
        if target is None:
            continue
        if isinstance(what, Package):
            carried = sha256(run_folder / export.ARTIFACTS / target.name)
            made_of = {"artifact": carried, "package": what.model_dump(mode="json")}
            note(facts, name, folder, "package", recipe, made_of)
            facts.check(
                refuse_package,
                what,
                f"{what.name} of {target.name}",
                solver=recipe.sampling.solver,
                backend=target.backend,
                graphs=target.graphs,
                profiles=target.engine.profiles if target.backend in TENSORRT else (),
            )
        else:
            swapped = facts.check(decoder.inputs, target, recipe) or {}
            note(
                facts, name, folder, "artifact", recipe, {**inputs, "target": target.model_dump(mode="json"), **swapped}
            )
        follow(facts, name, "student", fresh=fresh)
        if facts.to_make(name):
            _target(facts, target, recipe, run_folder)


def _target(facts: Facts, target: Target, recipe: Recipe, run_folder: Path) -> None:
    facts.check(export.refuse, target, recipe, run_folder)
    if facts.student is not None:
        facts.check(export.refuse_network, target, facts.student.network, run_folder)
    backend: Backend = resolve("backend", BACKENDS, target.backend)(target, run_folder / ".engines")
    facts.check(backend.ready)
    steps = target.sampler.num_inference_steps
    if steps is not None and facts.schedule is not None:
        sampling = recipe.sampling.model_copy(update={"num_inference_steps": steps})
        facts.check(plan, sampling, facts.schedule.num_train_timesteps)


def _bench(facts: Facts, recipe: Recipe, run_folder: Path, *, fresh: bool) -> None:
    config = recipe.bench.quality
    manifest = manifest_of(run_folder / "bench")
    inputs = dict(manifest["inputs"]) if manifest else {}
    inputs |= {"student": sha256(run_folder / "student")}
    if facts.data is not None and facts.stored is not None:
        decodes = facts.stored.are_latents and recipe.data.vae is not None
        pictures = facts.check(pictures_of, facts.stored, recipe.data, pixels=False) if decodes else facts.stored
        if pictures is not None:
            facts.check(features.refuse, config.features, pictures, weights=config.features_weights)
            if config.reference is not None and config.features != "none":
                facts.check(reference.refuse, expanded(config.reference), pictures, features=config.features)
        inputs |= {"data": facts.data.sha256}
    note(facts, "bench", run_folder / "bench", "bench", recipe, inputs)
    for stage in [name for name in facts.reasons if name not in ("teacher", "bench")]:
        follow(facts, "bench", stage, fresh=fresh)
    trained, steps = recipe.distill.objective.guidance_range, 100
    if trained is None:
        return
    outside = [
        guidance.label(scale)
        for scale in dict.fromkeys((recipe.sampling.guidance, *config.guidance))
        if not all(trained[0] <= guidance.weight(scale, t, steps) <= trained[1] for t in range(steps))
    ]
    if outside:
        span = f"{trained[0]:g}" if trained[0] == trained[1] else f"{trained[0]:g} to {trained[1]:g}"
        facts.warnings.append(
            f"the objective {recipe.distill.objective.kind} trains w = {span}, and the benchmark samples at "
            f"{', '.join(outside)} too"
        )
