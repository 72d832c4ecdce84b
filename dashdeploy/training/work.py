"""The work folder of a training stage: kept through an interruption, gone once the stage is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dashdeploy import ranks, stages
from dashdeploy.recipe import keys, schema
from dashdeploy.training import checkpoint
from dashdeploy.training.accelerator import TRACKER
from dashdeploy.training.progress import METRICS
from dashdeploy.training.step import TrainStep


def ready(
    folder: Path, stage: keys.Stage, *, key: str, recipe: schema.Recipe, inputs: dict[str, Any], fresh: bool
) -> stages.Stage | None:
    """The finished stage with this key; None: it has to be made.

    Raises:
        UserError: another result is finished there, which only `fresh` may replace: training takes hours.
    """

    def look() -> stages.Stage | None:
        done = stages.finished(folder, key)
        if done is None:
            stages.refuse_to_replace(folder, stage, recipe, inputs)
        return done

    return None if fresh else ranks.in_main(look)


@contextmanager
def working(folder: Path, *, key: str, fresh: bool) -> Iterator[Path]:
    """The work folder of the stage in `folder`, locked; emptied at the end of the block, but not after an error.

    Raises:
        UserError: its checkpoint has another key, and `fresh` is not given; or another process is at work there.
    """
    with ExitStack() as stack:

        def enter() -> Path:
            work = stack.enter_context(stages.exclusive(folder, fresh=fresh))
            # A checkpoint of another recipe is refused before anything costly is built.
            checkpoint.load(work, key=key)
            return work

        work = ranks.in_main(enter)
        yield work
        ranks.in_main(lambda: stages.clear(work))


def write(
    folder: Path,
    work: Path,
    module: TrainStep,
    figures: dict[str, Any],
    *,
    key: str,
    recipe: schema.Recipe,
    inputs: dict[str, Any],
    contents: Callable[[stages.Draft], None],
) -> None:
    """Write the stage, in the main process: its contents, and what it has of any training.

    Args:
        figures: of the last line of metrics.
    """

    def write_it() -> None:
        with stages.write_stage(folder, work, key=key, recipe=recipe, inputs=inputs) as draft:
            contents(draft)
            module.weights.save(draft.folder)
            shutil.copy2(work / METRICS, draft.folder / METRICS)
            if (work / TRACKER).is_dir():
                shutil.copytree(work / TRACKER, draft.folder / TRACKER)
            draft.figures.update({name: value for name, value in figures.items() if name not in ("terms", "phase")})
            draft.figures.update(timestep_weight_by_decile=module.weights.mass_by_decile())

    ranks.in_main(write_it)
