"""The work folder of a training stage: kept through an interruption, gone once the stage is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from dashdeploy import stages
from dashdeploy.training import checkpoint
from dashdeploy.training.accelerator import TRACKER
from dashdeploy.training.progress import METRICS
from dashdeploy.training.step import TrainStep


@contextmanager
def working(folder: Path, *, key: str, accelerator: Accelerator, fresh: bool) -> Iterator[Path]:
    """The work folder of the stage in `folder`; removed at the end of the block, but not after an error.

    Raises:
        UserError: its checkpoint has another key, and `fresh` is not given; or another process is at work there.
    """
    main = accelerator.is_main_process
    work = stages.work_folder(folder, fresh=fresh and main)
    # No process may look for a checkpoint before --fresh has removed it.
    accelerator.wait_for_everyone()
    with stages.exclusive(work) if main else nullcontext():
        # A checkpoint of another recipe is refused before anything costly is built.
        checkpoint.load(work, key=key)
        yield work
        if main:
            shutil.rmtree(work, ignore_errors=True)
    accelerator.wait_for_everyone()


def keep_record(draft: stages.Draft, work: Path, module: TrainStep, figures: dict[str, Any]) -> None:
    """Put into the stage what it has of any training: its metrics, the tracker's files, the last line's figures."""
    shutil.copy2(work / METRICS, draft.folder / METRICS)
    if (work / TRACKER).is_dir():
        shutil.copytree(work / TRACKER, draft.folder / TRACKER)
    draft.figures.update({name: value for name, value in figures.items() if name != "terms"})
    draft.figures.update(timestep_weight_by_decile=module.weights.mass_by_decile())
