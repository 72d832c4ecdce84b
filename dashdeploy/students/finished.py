"""A student that begins with the weights of a finished one: size first, steps second."""

from __future__ import annotations

from typing import Any

from dashdeploy import stages
from dashdeploy.errors import UserError
from dashdeploy.locate import expanded
from dashdeploy.recipe.initialisation import Run
from dashdeploy.students.architecture import StudentDesign
from dashdeploy.teachers import formats, guidance_embedding, networks


def find(init: Run) -> stages.Stage:
    """The finished student that a recipe names: of a run folder, or a student's own folder.

    Raises:
        UserError: there is none, it is no student, or it is damaged.
    """
    path = expanded(init.path)
    folder = path / "student" if stages.is_stage(path / "student") else path
    if not stages.is_stage(folder):
        raise UserError(
            f"student.init.path {init.path!r}: no finished student there. Give a run folder in which `dashdeploy "
            "distill` has made one."
        )
    stage = stages.read_stage(folder)
    if stage.manifest["stage"] != "student":
        raise UserError(
            f"student.init.path {init.path!r}: it is a {stage.manifest['stage']}, and not a student. A student that "
            "begins as its teacher has student.init: {kind: pruned}."
        )
    return stage


def begin(init: Run, student: StudentDesign) -> Any:
    """The network of `student` with the weights of the finished one, in train mode.

    What only one of the two has is the embedding of the guidance scale: a new one is 0, so that the student begins as
    the conditional branch of a finished one of two branches.

    Raises:
        UserError: see `find`; the finished one is another network, or of another range of guidance scales.
    """
    stage = find(init)
    denoiser = formats.load(stage.folder, role="student")
    given = denoiser.unet
    wanted = refuse_other(given, student, f"student.init.path {init.path!r}")
    known = given.config.get(guidance_embedding.KEY)
    state = given.state_dict()
    if known is None and student.config.get(guidance_embedding.KEY) is not None:
        state = guidance_embedding.unfolded(wanted, state)
    wanted.load_state_dict(state)
    return networks.without_label_dropout(wanted).train()


def refuse_other(given: Any, student: StudentDesign, start: str) -> Any:
    """The new network of `student`, which can take the weights of a given one.

    Args:
        start: how a message names the given one.

    Raises:
        UserError: the given one is another network, or of another range of guidance scales.
    """
    wanted = networks.build(student.config, network=student.network)
    differences = _differences(given, wanted)
    if differences:
        raise UserError(
            f"{start}: its student is another network ({'; '.join(differences)}). Take the size of that run "
            "(student.compression, architecture or dit), or another start."
        )
    known = given.config.get(guidance_embedding.KEY)
    if known is not None and list(known) != list(student.config.get(guidance_embedding.KEY) or ()):
        asked = student.config.get(guidance_embedding.KEY)
        raise UserError(
            f"{start}: its student has one branch for the guidance scales {list(known)}, and this one "
            f"{'two branches' if asked is None else f'one for {list(asked)}'}. Train for the same, or begin with a "
            "student of two branches."
        )
    return wanted


def _differences(given: Any, wanted: Any) -> list[str]:
    """The arguments in which two networks differ, as "layers_per_block: 2 and not 1"."""
    if type(given) is not type(wanted):
        return [f"a {type(given).__name__} and not a {type(wanted).__name__}"]
    here, there = (networks.arguments(dict(network.config)) for network in (given, wanted))
    keys = [key for key in there if here.get(key) != there[key] and listed(here.get(key)) != listed(there[key])]
    return [f"{key}: {here.get(key)} and not {there[key]}" for key in keys]


def listed(value: Any) -> Any:
    """A tuple as a list, as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def sha256(init: Any) -> str | None:
    """The hash of the student that a start of kind run takes; None: another kind.

    Raises:
        UserError: see `find`.
    """
    return find(init).sha256 if isinstance(init, Run) else None
