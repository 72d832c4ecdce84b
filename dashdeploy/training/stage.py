"""What the teach and distill stages share: caching, locking, training, writing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dashdeploy import stages
from dashdeploy.recipe import schema
from dashdeploy.training import checkpoint
from dashdeploy.training.batches import Source
from dashdeploy.training.loop import make_accelerator, train
from dashdeploy.training.progress import METRICS, TENSORBOARD
from dashdeploy.training.step import TrainStep


def train_stage(
    recipe: schema.Recipe,
    folder: Path,
    config: schema.Training,
    *,
    inputs: dict[str, Any],
    build: Callable[..., tuple[TrainStep, Source]],
    write: Callable[[TrainStep, stages.Draft], None],
    fresh: bool,
) -> stages.Stage:
    """Train and write the stage in `folder`, unless it is there already with the same inputs.

    `build` makes the module and its data source; `write` stores the trained module in a draft. The
    work folder survives an interruption and is removed once the stage is written.
    """
    key = stages.stage_key(folder.name, **inputs)
    done = None if fresh else stages.current(folder, key)
    if done is not None:
        return done
    accelerator = make_accelerator(config)
    main = accelerator.is_main_process
    work = stages.work_folder(folder, fresh=fresh and main)
    # No process may look for a checkpoint before --fresh has removed it.
    accelerator.wait_for_everyone()
    with stages.exclusive(work) if main else nullcontext():
        # A checkpoint of another recipe is refused before anything costly is built.
        checkpoint.load(work, key=key)
        module, source = build(accelerator=accelerator, work=work, key=key)
        figures = train(
            module,
            source,
            config,
            accelerator=accelerator,
            folder=work,
            key=key,
            seed=recipe.seed,
            title=f"{folder.name} {recipe.name}",
        )
        if main:
            with stages.write_stage(folder, key=key, recipe=recipe, inputs=inputs) as draft:
                shutil.copy2(work / METRICS, draft.folder / METRICS)
                if (work / TENSORBOARD).is_dir():
                    shutil.copytree(work / TENSORBOARD, draft.folder / TENSORBOARD)
                draft.figures.update(
                    {k: v for k, v in figures.items() if k != "terms"},
                    timestep_weight_by_decile=module.weights.mass_by_decile(),
                )
                write(module, draft)
            shutil.rmtree(work, ignore_errors=True)
    accelerator.wait_for_everyone()
    return stages.read_stage(folder)
