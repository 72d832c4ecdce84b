"""Images that several processes of one launch draw together, each a part of every set."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate.utils import gather_object

from dashdeploy import ranks
from dashdeploy.bench.measure import quality, samples
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion.pixels import to_uint8
from dashdeploy.diffusion.sampling import draw as draw_samples
from dashdeploy.progress import progress
from dashdeploy.recipe.schema import Guidance, Recipe
from dashdeploy.runtime.image_set import share
from dashdeploy.runtime.model import Model


def draw(
    models: dict[str, Model],
    wanted: dict[quality.Job, Guidance],
    recipe: Recipe,
    data: LabelledImages,
    *,
    folders: dict[str, Path],
    cache: Path,
) -> frozenset[str]:
    """Draw every set of `quality.measure` that is not there yet into the cache; every process calls it alike.

    Image i of a set depends on the seed, i and its label alone: a set is the same for any number of processes, as far
    as their arithmetic is.

    Args:
        data: the images that samples are compared with.
        folders, cache: see `quality.measure`.

    Returns:
        The keys of the sets that were drawn.
    """
    config = recipe.bench.quality
    labels = quality.class_labels(config.num_images, data.split(recipe.data.holdout)[0])
    sets = []
    for (name, _), scale in wanted.items():
        model = models[name]
        run = quality.plan_of(recipe, model, scale)
        for seed in quality.sampling_seeds(recipe):
            sets.append((name, run, seed, samples.key(model.sha256, run, labels=labels, seed=seed)))

    def missing() -> list[int]:
        shape = {name: (len(labels), *model.denoiser.interface.drawn_shape) for name, model in models.items()}
        places = {name: [folders[name] / samples.FOLDER, cache] for name in models}
        return [
            i for i, (name, _, _, key) in enumerate(sets) if samples.load(places[name], key, shape=shape[name]) is None
        ]

    todo = ranks.in_main(missing)
    mine = share(len(labels))
    with progress("images", total=len(todo) * len(mine)) as advance:
        for i in todo:
            name, run, seed, key = sets[i]
            interface = models[name].denoiser.interface
            interface.check_images()
            parts = [torch.empty((0, *interface.drawn_shape), dtype=torch.uint8)]
            if mine:
                batches = draw_samples(
                    models[name].sample,
                    interface,
                    run,
                    labels=labels[mine.start : mine.stop],
                    seed=seed,
                    batch_size=config.batch_size,
                    first=mine.start,
                    device=models[name].device,
                )
                for batch in batches:
                    parts.append(to_uint8(batch).cpu())
                    advance(len(batch))
            together = gather_object([torch.cat(parts)])
            if ranks.state().is_main_process:
                samples.save(cache, key, torch.cat(together))
    return frozenset(sets[i][3] for i in todo)
