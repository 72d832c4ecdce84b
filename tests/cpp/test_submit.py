"""dd_submit: images of several requests in one batch, each as if it were alone; cancel, deadline, full queue."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import building
import numpy as np
import pytest
from library import Library, Model, StatusError, Ticket, guidance

pytestmark = pytest.mark.slow

SCALES = {
    "default": guidance(),
    "constant": guidance("constant", w=2.5),
    "off": guidance("constant", w=1.0),
    "interval": guidance("interval", w=3, low=0.2, high=0.8),
}


@pytest.fixture(scope="module")
def model(library: Library, artifact: Path):
    with Model(library, artifact, threads=2, max_batch=8) as opened:
        yield opened


def test_an_image_does_not_depend_on_its_company(model: Model) -> None:
    draw, tickets = random.Random(4), []
    for seed in range(60):
        labels = np.array([draw.randrange(10) for _ in range(draw.choice((1, 1, 2, 5, 19)))])
        asked = {"scale": SCALES[draw.choice(list(SCALES))], "steps": draw.choice((1, 4, 10, 23)), "seed": seed}
        tickets.append((labels, asked, model.submit(labels, **asked)))
        time.sleep(draw.choice((0, 0, 0.01)))
    for labels, asked, ticket in tickets:
        drawn = ticket.wait()
        np.testing.assert_allclose(drawn, model.submit(labels, **asked).wait(), rtol=0, atol=1e-5)
        # It may take the sampler or the cond graph, which round otherwise.
        np.testing.assert_allclose(drawn, model.sample(labels, **asked), rtol=0, atol=1e-4)


def test_own_noise_is_copied_and_first_image_counts_on(model: Model) -> None:
    labels = np.array([3, 1, 4])
    noise = model.library.noise(5, 10, 3, int(np.prod(model.noise_shape))).reshape(3, *model.noise_shape)
    own = noise.copy()
    ticket = model.submit(labels, noise=own, steps=6)
    own[:] = 0
    np.testing.assert_allclose(ticket.wait(), model.sample(labels, seed=5, first_image=10, steps=6), atol=1e-5)


def test_several_threads_submit_and_wait(model: Model) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(5):
            labels, asked = np.array([(number + turn) % 10]), {"seed": 10 * number + turn, "steps": 3 + number}
            drawn = model.submit(labels, **asked).wait()
            if np.abs(drawn - model.sample(labels, **asked)).max() > 1e-5:
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_short_request_overtakes_a_long_one(model: Model) -> None:
    long = model.submit(np.array([1]), steps=1000)
    assert model.submit(np.array([2]), steps=2).wait() is not None
    assert long.wait(0) is None
    long.cancel()
    with pytest.raises(StatusError, match="cancelled by dd_cancel"):
        long.wait()


def test_a_request_of_many_images_does_not_hold_up_one_of_one(library: Library, artifact: Path) -> None:
    with Model(library, artifact, threads=1, max_batch=1) as model:
        many = model.submit(np.zeros(200, np.int64), steps=20)
        assert model.submit(np.array([2]), steps=2).wait() is not None
        assert many.wait(0) is None
        many.cancel()
        with pytest.raises(StatusError, match="cancelled"):
            many.wait()


def test_cancel_ends_within_a_step_and_frees_the_place(library: Library, artifact: Path) -> None:
    done: list[int] = []
    with Model(library, artifact, threads=1, max_batch=1) as model:
        model.submit(np.array([0]), steps=1).wait()  # measured
        stop = threading.Event()

        def progress(step: int, total: int) -> int:
            done.append(step)
            if step == 5:
                stop.set()
                time.sleep(0.2)  # so that the cancel comes within this step
            return 0

        long, behind = model.submit(np.array([1]), steps=500, progress=progress), model.submit(np.array([2]), steps=3)
        assert stop.wait(60)
        long.cancel()
        with pytest.raises(StatusError, match="cancelled"):
            long.wait()
        assert behind.wait() is not None
    assert done == [1, 2, 3, 4, 5]


def test_the_progress_callback_cancels_its_own_request_alone(model: Model) -> None:
    labels = np.array([6, 7])
    stopped = model.submit(labels, steps=50, progress=lambda done, total: int(done >= 7))
    beside = model.submit(labels, steps=50, seed=3)
    with pytest.raises(StatusError, match="cancelled by the progress callback"):
        stopped.wait()
    np.testing.assert_allclose(beside.wait(), model.sample(labels, steps=50, seed=3), atol=1e-5)


def test_progress_counts_the_steps_of_all_images(model: Model) -> None:
    seen: list[tuple[int, int]] = []
    model.submit(np.array([0, 1, 2]), steps=4, progress=lambda *said: seen.append(said) or 0).wait()
    assert seen == [(done, 12) for done in range(1, 13)]


def test_previews_are_x_0_and_the_last_is_the_image(model: Model) -> None:
    seen: dict[tuple[int, int], np.ndarray] = {}

    def preview(image: int, step: int, x_0: np.ndarray) -> None:
        seen[image, step] = x_0

    labels = np.array([3, 8])
    drawn = model.submit(labels, steps=20, seed=2, preview=preview, preview_every=5).wait()
    assert sorted(seen) == [(image, step) for image in (0, 1) for step in (5, 10, 15, 20)]
    assert all(np.abs(x_0).max() <= 1 for x_0 in seen.values())
    for image in (0, 1):
        np.testing.assert_allclose(seen[image, 20], drawn[image], atol=1e-6)
        far = [np.abs(seen[image, step] - drawn[image]).mean() for step in (5, 10, 15, 20)]
        assert far == sorted(far, reverse=True)
    # By the definition: one step from where step 10 left x goes to t_prev = -1, the clean image that eps there says.
    t, t_prev, w = model.plan(20, guidance())
    x = model.library.noise(2, 0, 2, int(np.prod(model.noise_shape))).reshape(2, *model.noise_shape)
    for step in range(9):
        model.step(x, *(np.full(2, each[step]) for each in (t, t_prev)), labels, np.full(2, w[step], np.float32))
    model.step(x, np.full(2, t[9]), np.full(2, -1), labels, np.full(2, w[9], np.float32))
    np.testing.assert_allclose(np.stack([seen[0, 10], seen[1, 10]]), x, atol=2e-4)


def test_a_deadline_ends_a_request_that_runs_or_waits(library: Library, artifact: Path) -> None:
    with Model(library, artifact, threads=1, max_batch=1) as model:
        running = model.submit(np.array([1]), steps=1000, deadline_ms=50, progress=lambda *_: time.sleep(0.01) or 0)
        waiting = model.submit(np.array([2]), steps=2, deadline_ms=1)
        for ticket, begun in ((running, 1), (waiting, 0)):
            with pytest.raises(StatusError, match=rf"ms passed, with {begun} of 1 images begun") as told:
                ticket.wait()
            assert told.value.status == "deadline"
        assert model.submit(np.array([3]), steps=2).wait() is not None


def test_a_full_queue_is_refused_at_once(library: Library, artifact: Path) -> None:
    with Model(library, artifact, threads=1, max_batch=1, max_waiting=3) as model:
        begun = threading.Event()
        long = model.submit(np.array([1]), steps=1000, progress=lambda *_: begun.set() or 0)
        assert begun.wait(60)
        kept = model.submit(np.array([2, 3]), steps=1)
        with pytest.raises(StatusError, match="2 images wait, and 2 more are above max_waiting, 3") as told:
            model.submit(np.array([4, 5]), steps=1)
        assert told.value.status == "busy"
        last = model.submit(np.array([6]), steps=1)
        long.cancel()
        assert kept.wait() is not None and last.wait() is not None
        with pytest.raises(StatusError, match="cancelled"):
            long.wait()


def test_closing_ends_what_is_under_way_and_tickets_may_be_waited_for_afterwards(
    library: Library, artifact: Path
) -> None:
    with Model(library, artifact, threads=2, max_batch=4) as model:
        tickets: list[Ticket] = [model.submit(np.arange(10), steps=1000) for _ in range(3)]
    for ticket in tickets:
        with pytest.raises(StatusError, match="the model was closed"):
            ticket.wait()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"preview_every": 2}, "preview needs both"),
        ({"preview": lambda *_: None}, "preview needs both"),
        ({"deadline_ms": -1}, "deadline_ms is -1"),
        ({"steps": 1001}, "steps is 1001"),
        ({"scale": guidance("constant", w=-1)}, "guidance: w is -1"),
        ({"noise": np.full((1, 1, 8, 8), np.nan, np.float32)}, r"noise\[0\] is not a finite number"),
    ],
)
def test_a_bad_request_is_refused_and_leaves_no_ticket(model: Model, fields: dict, said: str) -> None:
    with pytest.raises(StatusError, match=said):
        model.submit(np.array([1]), **fields)
    with pytest.raises(StatusError, match=r"labels\[0\] is 10"):
        model.submit(np.array([10]))


def test_sample_refuses_what_only_submit_does(model: Model) -> None:
    for fields in ({"deadline_ms": 5}, {"preview": lambda *_: None, "preview_every": 1}):
        with pytest.raises(StatusError, match="are of dd_submit"):
            model.sample(np.array([1]), **fields)


def test_a_request_that_is_not_finite_fails_alone(model: Model) -> None:
    huge = np.full((1, *model.noise_shape), 3e38, np.float32)
    bad, good = model.submit(np.array([1]), noise=huge, steps=5), model.submit(np.array([1]), seed=9, steps=5)
    with pytest.raises(StatusError, match=r"step \d of 5 .* gave a value that is not finite"):
        bad.wait()
    np.testing.assert_allclose(good.wait(), model.sample(np.array([1]), seed=9, steps=5), atol=1e-5)


def test_the_cpp_header_submits(released: Path, artifact: Path, tmp_path: Path) -> None:
    source = (
        "#include <dashdeploy/dashdeploy.hpp>\n#include <cmath>\n#include <iostream>\n"
        "int main(int, char **arguments) {\n"
        "  dashdeploy::Model model(arguments[1]);\n"
        "  auto first = model.submit({1, 2}, 7), second = model.submit({3}, 8, dashdeploy::Guidance::constant(2), 3);\n"
        "  { auto dropped = model.submit({4}, 9, {}, 1000); }\n"
        "  const auto alone = model.sample({1, 2}, 7), drawn = first.get();\n"
        "  float far = 0;\n"
        "  for (std::size_t i = 0; i < alone.size(); ++i) far = std::max(far, std::abs(alone[i] - drawn[i]));\n"
        "  while (!second.wait_for(10)) {}\n"
        '  std::cout << (far < 1e-5F) << " " << second.get().size() / model.image_size() << " ";\n'
        "  auto stopped = model.submit({5}, 9, {}, 1000, [](auto done, auto) { return done < 3; });\n"
        "  try { stopped.get(); } catch (const dashdeploy::Error &error) { std::cout << error.what(); }\n"
        "}\n"
    )
    said = building.run(building.program(source, tmp_path, released), artifact).stdout
    assert said == "1 1 cancelled: cancelled by the progress callback"
