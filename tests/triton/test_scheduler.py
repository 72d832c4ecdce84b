"""Batches by the step without a server: random mixes on a real session, who enters and leaves when, and refusals."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import dashdeploy.runtime
from dashdeploy.diffusion import sampling
from dashdeploy.runtime.graphs_model import GraphSampler

SAME = 1e-5
"""Between an image of a mixed batch and the same alone: ONNX Runtime may round otherwise in a batch of another size."""


@pytest.fixture(scope="module")
def sampler(model_sampler: ModuleType, tiny_run: Path) -> Iterator[Any]:
    opened = model_sampler.Sampler(tiny_run / "artifacts" / "onnx-cpu", threads=2)
    yield opened
    opened.close()


@dataclass
class Asked:
    """A request, and all that it was told."""

    wanted: list[Any]
    images: list[Any] | None = None
    error: Any = None
    previews: list[tuple[int, int, Any]] = field(default_factory=list)

    @property
    def answers(self) -> int:
        return (self.images is not None) + (self.error is not None)


class Bench:
    """A scheduler with a clock that moves by one second a step."""

    def __init__(self, module: ModuleType, sampler: Any, *, places: int, move: Any = None, **options: Any) -> None:
        self.module, self.sampler, self.now = module, sampler, 0.0
        self.sizes: list[int] = []
        self.log: list[str] = []
        move = move or sampler.move

        def step(images: list[Any]) -> None:
            self.sizes.append(len(images))
            self.now += 1.0
            move(images)

        told = {"clock": lambda: self.now, "log": self.log.append} | options
        self.scheduler = module.StepScheduler(step, sampler.finish, places=places, **told)

    def wanted(self, seed: int = 0, *, steps: int = 4, w: Any = 2.0, solver: str = "ddim", noise: Any = None) -> Any:
        plan = self.sampler.plans.plan(steps=steps, scales=np.array(w, np.float32, ndmin=1), solver=solver)
        return self.module.Wanted(seed % 10, plan, self.sampler.image_shape, seed, 2**33 + seed, noise)

    def ask(self, *wanted: Any, **options: Any) -> tuple[Asked, Any]:
        asked = Asked(list(wanted))

        def done(images: list[Any]) -> None:
            assert not asked.answers
            asked.images = images

        def refuse(why: Any) -> None:
            assert not asked.answers
            asked.error = why

        options = {"on_preview": lambda *told: asked.previews.append(told)} | options
        return asked, self.scheduler.submit(self.module.Request(asked.wanted, done, refuse, **options))

    def run(self) -> int:
        """All steps; how many."""
        count = 0
        while self.scheduler.run_step():
            count += 1
        return count

    def alone(self, wanted: Any) -> Any:
        """The image in a batch of its own."""
        return self.sampler.draw([wanted.image()])[0]


@pytest.fixture
def bench(model_scheduler: ModuleType, sampler: Any) -> Any:
    def make(places: int, **options: Any) -> Bench:
        return Bench(model_scheduler, sampler, places=places, **options)

    return make


@pytest.mark.parametrize("seed", range(6))
def test_an_image_does_not_depend_on_whom_it_shared_batches_with(bench: Any, seed: int) -> None:
    draw = np.random.default_rng(seed)
    made = bench(int(draw.integers(1, 9)))
    requests: list[tuple[Asked, Any]] = []
    for number in range(30):
        wanted = []
        for part in range(int(draw.choice([1, 1, 1, 3]))):
            steps = int(draw.choice([1, 2, 3, 4, 10, 20]))
            w = draw.uniform(0, 5, steps) if draw.random() < 0.5 else draw.uniform(0, 5)
            solver = str(draw.choice(["ddim", "dpmpp_2m"]))
            wanted.append(made.wanted(100 * seed + 3 * number + part, steps=steps, w=w, solver=solver))
        requests.append(made.ask(*wanted, preview_every=int(draw.integers(0, 5))))
        for _ in range(int(draw.integers(0, 4))):
            made.scheduler.run_step()
        if draw.random() < 0.2:
            requests[int(draw.integers(len(requests)))][1].cancel()
    made.run()
    done = [asked for asked, _ in requests if asked.images is not None]
    assert all(asked.answers == 1 for asked, _ in requests) and len(done) > 15
    assert {asked.error.kind for asked, _ in requests if asked.error} <= {"cancelled"}
    for asked in done:
        for wanted, image in zip(asked.wanted, asked.images, strict=True):
            assert np.abs(image - made.alone(wanted)).max() <= SAME
    counts = made.scheduler.counts
    assert counts["done"] == len(done) and counts["image_steps"] == sum(made.sizes)
    total = sum(len(wanted.plan.timesteps) for asked in done for wanted in asked.wanted)
    assert counts["image_steps"] - counts["wasted_image_steps"] == total


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_the_images_are_those_of_the_python_runtime(bench: Any, tiny_run: Path, solver: Any) -> None:
    made = bench(5)
    asked = [made.ask(made.wanted(i, steps=(3, 4, 20)[i % 3], w=1.5 + i / 5, solver=solver))[0] for i in range(9)]
    made.run()
    with dashdeploy.runtime.open(tiny_run / "artifacts" / "onnx-cpu", threads=1) as model:
        assert isinstance(model.sampler, GraphSampler)
        model.sampler.timesteps = ()  # the step graph, as served
        for i, one in enumerate(asked):
            section = model.sampling.model_copy(update={"num_inference_steps": (3, 4, 20)[i % 3], "solver": solver})
            plan = sampling.plan(section, 1000, scale=float(np.float32(1.5 + i / 5)))
            noise = sampling.initial_noise(i, 2**33 + i, 1, model.denoiser.interface.image_shape)
            expected = model.sample(noise, torch.tensor([i % 10]), plan)[0].numpy()
            # DPM-Solver++ takes x_0 from another graph there, which rounds otherwise.
            assert one.images is not None and np.abs(one.images[0] - expected).max() < (
                SAME if solver == "ddim" else 1e-4
            )


def test_images_enter_and_leave_between_steps_and_the_first_comes_first(bench: Any) -> None:
    made = bench(2)
    order: list[int] = []
    for i, steps in enumerate((5, 2, 2, 3)):
        made.scheduler.submit(
            made.module.Request([made.wanted(i, steps=steps)], lambda _, i=i: order.append(i), order.append)
        )
    assert made.run() == 7  # one place: 5 and 2 steps; the other: 2, 2 and 3
    assert made.sizes == [2, 2, 2, 2, 2, 1, 1]
    assert order == [1, 2, 0, 3]


def test_a_cancelled_image_gives_its_place_to_the_next_within_a_step(bench: Any) -> None:
    made = bench(1)
    first, ticket = made.ask(made.wanted(0, steps=20))
    second, _ = made.ask(made.wanted(1, steps=4))
    for _ in range(5):
        made.scheduler.run_step()
    ticket.cancel()
    assert first.error is None
    made.scheduler.run_step()
    assert first.error.kind == "cancelled" and "5 of 20 steps" in str(first.error)
    assert made.run() == 3 and second.images is not None  # its first step was the one after the cancelling
    assert made.scheduler.counts["wasted_image_steps"] == 5


def test_what_is_cancelled_is_asked_of_the_request_too_and_waiting_ones_leave(bench: Any) -> None:
    made = bench(1)
    made.ask(made.wanted(0, steps=4))
    gone = threading.Event()
    waiting, _ = made.ask(made.wanted(1), is_cancelled=gone.is_set)
    made.scheduler.run_step()
    gone.set()
    made.scheduler.run_step()
    assert waiting.error.kind == "cancelled" and "had no place yet" in str(waiting.error)
    assert made.run() == 2


def test_a_large_request_does_not_starve_a_small_one(bench: Any) -> None:
    made = bench(2)
    large, _ = made.ask(*(made.wanted(i, steps=4) for i in range(10)))
    made.scheduler.run_step()
    small, _ = made.ask(made.wanted(50, steps=4))
    also, _ = made.ask(*(made.wanted(60 + i, steps=4) for i in range(2)))
    for _ in range(3 + 4):  # two of the large one were running; then the turns are: large, small, also, …
        made.scheduler.run_step()
    assert small.images is not None and large.images is None
    made.run()
    assert large.images is not None and len(large.images) == 10 and also.images is not None
    for wanted, image in zip(large.wanted, large.images, strict=True):
        assert np.abs(image - made.alone(wanted)).max() <= SAME


def test_a_late_request_leaves_and_is_told_how_long_it_waited(bench: Any) -> None:
    made = bench(1)
    running, _ = made.ask(made.wanted(0, steps=20), within_s=6.5)
    waiting, _ = made.ask(made.wanted(1, steps=4), within_s=3.5)
    last, _ = made.ask(made.wanted(2, steps=4), within_s=100.0)
    made.run()
    assert str(waiting.error).startswith("not done in the 3.5 s that it had; it waited 4.000 s and had no place yet")
    assert "it waited 0.000 s for a place and ran for 7.000 s, 7 of 20 steps" in str(running.error)
    assert running.error.kind == waiting.error.kind == "late" and last.images is not None
    assert len(made.sizes) == 7 + 4


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room(bench: Any) -> None:
    made = bench(2, most_waiting=3)
    taken = [made.ask(made.wanted(i))[0] for i in range(5)]  # two places, three that wait
    with pytest.raises(made.module.Refusal, match=r"the queue is full: 5 images wait .* at most 3 may") as caught:
        made.ask(made.wanted(9))
    assert caught.value.kind == "full"
    for _ in range(4):
        made.scheduler.run_step()
    taken.append(made.ask(made.wanted(5), made.wanted(6))[0])
    with pytest.raises(made.module.Refusal):
        made.ask(*(made.wanted(i) for i in range(4)))
    made.run()
    assert all(asked.images is not None for asked in taken) and made.scheduler.counts["full"] == 2


def test_who_has_an_answer_finds_the_place_free(bench: Any) -> None:
    made = bench(1, most_waiting=0)
    again: list[Asked] = []
    first = made.wanted(0)
    made.scheduler.submit(
        made.module.Request([first], lambda _: again.append(made.ask(made.wanted(1))[0]), pytest.fail)
    )
    assert made.run() == 8 and again[0].images is not None and not made.scheduler.counts["full"]


def test_a_bad_request_is_told_so_and_the_others_get_their_images(bench: Any) -> None:
    made = bench(8)
    good = [made.ask(made.wanted(i, steps=10))[0] for i in range(5)]
    huge = np.full(made.sampler.image_shape, 3e38, np.float32)
    bad, _ = made.ask(made.wanted(7, steps=10), made.wanted(8, steps=10, noise=huge))
    wrong, _ = made.ask(object())  # what cannot even start
    made.run()
    assert bad.error.kind == "invalid" and "not finite from step 1 of 10 on (t = " in str(bad.error)
    assert wrong.error.kind == "internal" and "AttributeError" in str(wrong.error)
    for asked in good:
        assert asked.images is not None and np.abs(asked.images[0] - made.alone(asked.wanted[0])).max() <= SAME


def test_a_session_s_error_reaches_the_requests_of_that_step_and_the_scheduler_goes_on(
    bench: Any, sampler: Any
) -> None:
    broken: list[bool] = []

    def move(images: list[Any]) -> None:
        if broken:
            raise RuntimeError("the device\nis gone")
        sampler.move(images)

    made = bench(2, move=move)
    first = [made.ask(made.wanted(i))[0] for i in range(2)]
    later, _ = made.ask(made.wanted(2))
    made.scheduler.run_step()
    broken.append(True)
    made.scheduler.run_step()
    broken.clear()
    assert [str(asked.error) for asked in first] == ["RuntimeError: the device is gone"] * 2 and not later.answers
    made.run()
    assert later.images is not None and made.scheduler.counts["internal"] == 2


def test_a_mistake_after_the_step_is_told_to_its_requests_and_spares_the_others(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(1)
    first, _ = made.ask(made.wanted(1, steps=1))
    later, _ = made.ask(made.wanted(2, steps=1))

    def full(place: Any, picture: Any) -> None:
        raise MemoryError("no room for a copy")

    monkeypatch.setattr(made.scheduler, "_give", full)
    made.scheduler.run_step()
    assert str(first.error) == "MemoryError: no room for a copy" and not later.answers
    monkeypatch.undo()
    made.run()
    assert later.images is not None and made.scheduler.open_tickets() == []


def test_a_callback_that_fails_harms_nobody_else(bench: Any) -> None:
    made = bench(2)

    def fail(*_: Any) -> None:
        raise ConnectionError("gone")

    made.scheduler.submit(made.module.Request([made.wanted(0)], fail, fail, fail, preview_every=1))
    other, _ = made.ask(made.wanted(1))
    made.run()
    assert other.images is not None and made.log == ["an answer was not taken: ConnectionError: gone"] * 4


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_a_preview_is_the_x_0_of_its_step(bench: Any, sampler: Any, solver: str) -> None:
    made = bench(3)
    wanted = made.wanted(3, steps=10, solver=solver)
    asked, _ = made.ask(made.wanted(2, steps=3), wanted, preview_every=4)
    made.run()
    assert [(number, step) for number, step, _ in asked.previews] == [(1, 4), (1, 8)]
    image, graph = wanted.image(), sampler._graph(sampler.part)
    for step in range(1, 10):
        t, _, w = image.now
        feeds = (image.x[None], np.array([t]), np.array([-1]), np.array([image.y]), np.array([w], np.float32))
        x_0 = graph(feeds)[0]
        sampler.move([image])
        assert np.abs(image.clean() - x_0).max() < 1e-4
        shown = [preview for _, at, preview in asked.previews if at == step]
        assert all(np.abs(preview - x_0).max() < 1e-4 for preview in shown)


def test_many_threads_ask_one_worker_and_nothing_is_left_after_the_end(bench: Any) -> None:
    made = bench(4)
    before = threading.active_count()
    made.scheduler.start()
    told = threading.Semaphore(0)
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        for k in range(8):
            wanted = made.wanted(10 * number + k, steps=1 + k)

            def done(images: list[Any], i: int = 10 * number + k) -> None:
                found[i] = images[0]
                told.release()

            made.scheduler.submit(made.module.Request([wanted], done, lambda why: told.release()))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(told.acquire(timeout=30) for _ in range(48)) and len(found) == 48
    open_one, _ = made.ask(made.wanted(0, steps=1000))
    made.scheduler.close()
    assert open_one.error.kind == "ending" and "the server is ending; it waited" in str(open_one.error)
    with pytest.raises(made.module.Refusal, match="the server is ending"):
        made.ask(made.wanted(0))
    assert threading.active_count() == before and not made.scheduler.open_tickets()
