"""Triton's python backend: the class that it looks for, and batches that Triton puts together.

What batches by the step is in steps.py. A wrong request gets an error; the others of its batch are served.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import asked
import checked
import numpy as np
import sampler
import steps
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The class that the python backend looks for; each instance of the model has one object of it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the artifact; an error here leaves the model not ready, with the reason in the server's log."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        instances = sum(group["count"] for group in config["instance_group"])
        cores = len(os.sched_getaffinity(0))
        self.sampler = sampler.Sampler(
            Path(__file__).parent / "artifact",
            threads=int(parameters["threads"]) if "threads" in parameters else max(1, cores // instances),
            device_id=int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else 0,
            public_key=checked.configured_key(parameters.get("public_key")),
        )
        counters = steps.Counters(args["model_name"], args["model_version"])
        if parameters.get("scheduler") == "steps":
            largest = config["max_batch_size"]
            self.serving: Any = steps.Steps(self.sampler, parameters, counters, largest=largest)
        else:
            self.serving = Batches(self.sampler, counters)

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """What `serving` answers at once; None: it answers later."""
        answers: list[Any] | None = self.serving.execute(requests)
        return answers

    def finalize(self) -> None:
        """Answer what still runs, and release the threads."""
        self.serving.close()
        self.sampler.close()


class Batches:
    """Answers the requests of a batch together, after all steps of all of them."""

    def __init__(self, opened: sampler.Sampler, counters: steps.Counters) -> None:
        self.sampler, self.counters = opened, counters

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        read = [self._read(request) for request in requests]
        made = [[wanted.image() for wanted in one] if isinstance(one, list) else [] for one in read]
        everything = [image for images in made for image in images]
        drawn = iter(self.sampler.draw(everything) if everything else [])
        answers = []
        for one, images in zip(read, made, strict=True):
            bad = [image for image in images if image.bad >= 0]
            pictures = [next(drawn) for _ in images]
            if isinstance(one, str):
                answers.append(steps.refused(one))
            elif bad:
                answers.append(steps.refused(asked.trouble(min(bad, key=lambda image: image.bad))))
            else:
                answers.append(pb_utils.InferenceResponse([steps.tensor("image", np.stack(pictures))]))
        self._count(requests, made)
        return answers

    def close(self) -> None:
        """Nothing runs between batches."""

    def _read(self, request: Any) -> list[asked.Wanted] | str:
        """What a request asks for, or what is wrong with it."""
        try:
            return asked.read(steps.tensors(request), self.sampler)
        except ValueError as error:
            return str(error)

    def _count(self, requests: list[Any], made: list[list[Any]]) -> None:
        """Steps for the server's metrics; those of requests that were cancelled meanwhile are wasted."""
        ran = [sum(image.step for image in images) for images in made]
        wasted = sum(count for request, count in zip(requests, ran, strict=True) if count and request.is_cancelled())
        self.counters.add(image_steps=sum(ran), wasted_image_steps=wasted)
