"""Tickets where something goes wrong: an error told twice, a cancel beside a wait, a request that fails alone."""

from __future__ import annotations

import ctypes as c
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import building
import numpy as np
import openvino
import pytest
from conftest import seal
from library import Library, Model, Request, StatusError, Timing, guidance
from openvino import opset13 as ops

from dashdeploy.export.export import export
from dashdeploy.runtime.tensorrt_session import BatchRange, choose_profile
from dashdeploy.stages import file_sha256
from dashdeploy.target import ParityLimits, Target

pytestmark = pytest.mark.slow

HEADERS = "#include <dashdeploy/dashdeploy.hpp>\n#include <iostream>\n#include <thread>\n"
TWICE = """
template <typename Call> void tell(Call call) {
  try { call(); std::cout << "fine\\n"; } catch (const dashdeploy::Error &error) { std::cout << error.what() << "\\n"; }
}
int main(int, char **arguments) {
  dashdeploy::Model model(arguments[1]);
  auto stopped = model.submit({5}, 9, {}, 1000, [](auto done, auto) { return done < 3; });
  tell([&] { while (!stopped.wait_for(10)) {} });
  tell([&] { stopped.wait_for(10); });
  tell([&] { stopped.get(); });
  auto drawn = model.submit({5}, 9, {}, 2);
  tell([&] { drawn.get(); });
  tell([&] { drawn.get(); });
}
"""
BESIDE = """
int main(int, char **arguments) {
  dashdeploy::Model model(arguments[1]);
  int cancelled = 0, round = 0;
  for (; round < 200; ++round) {
    auto ticket = model.submit({5}, 9, {}, round % 2 == 0 ? 3 : 1000);
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(50 * round));
      ticket.cancel();
    });
    try { ticket.get(); } catch (const dashdeploy::Error &error) { cancelled += error.status() == DD_CANCELLED; }
    other.join();
    ticket.cancel();
  }
  std::cout << round << " " << (cancelled >= 100);
}
"""
NO_THREADS = """
#include <dlfcn.h>
#include <atomic>
#include <cerrno>
#include <pthread.h>
%s
std::atomic<int> left{1 << 20};  // threads that can be started
extern "C" int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *with) noexcept {
  using Create = int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return left-- > 0 ? create(thread, how, run, with) : EAGAIN;
}
"""
POOL = (
    NO_THREADS % '#include "pool.h"\n#include <iostream>'
    + """
int main() {
  left = 2;
  dashdeploy::detail::Pool pool(5);
  std::atomic<int> sum{0};
  pool.run(10, [&](int i) { sum += i; });
  std::cout << sum;
}
"""
)
WORKERS = (
    NO_THREADS % HEADERS
    + """
int main(int, char **arguments) {
  dashdeploy::Model model(arguments[1], /*threads=*/2);
  left = 0;
  try { model.submit({1}, 7); } catch (const dashdeploy::Error &error) { std::cout << error.what() << "\\n"; }
  left = 1;
  auto ticket = model.submit({1}, 7, {}, 2);
  left = 1 << 20;
  std::cout << (ticket.get().size() == model.image_size());
}
"""
)


@pytest.fixture(scope="module")
def model(library: Library, artifact: Path):
    with Model(library, artifact, threads=1, max_batch=8) as opened:
        yield opened


def output(source: str, folder: Path, released: Path, artifact: Path) -> str:
    done = building.run(building.program(source, folder, released), artifact)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cpp_header_tells_an_error_again_and_gives_images_once(
    released: Path, artifact: Path, tmp_path: Path
) -> None:
    stopped = "cancelled: cancelled by the progress callback"
    said = output(HEADERS + TWICE, tmp_path, released, artifact).splitlines()
    assert said == [stopped, stopped, stopped, "fine", "invalid argument: the images of this ticket were taken before"]


def test_the_cpp_header_cancels_beside_a_wait(released: Path, artifact: Path, tmp_path: Path) -> None:
    assert output(HEADERS + BESIDE, tmp_path, released, artifact) == "200 1"


def test_a_thread_that_cannot_be_started_is_done_without(released: Path, artifact: Path, tmp_path: Path) -> None:
    said = output(WORKERS, tmp_path, released, artifact).splitlines()
    assert said[-1] == "1"
    assert said[0].startswith("backend error: no thread could be started")
    (tmp_path / "pool.cpp").write_text(POOL)
    flags = ("-std=c++17", *building.WARNINGS, f"-I{building.SOURCES / 'src'}")
    built = building.run(
        building.tool("c++"), *flags, tmp_path / "pool.cpp", "-o", tmp_path / "pool", "-ldl", "-pthread"
    )
    assert built.returncode == 0, built.stderr
    done = building.run(tmp_path / "pool")
    assert (done.returncode, done.stdout) == (0, "45"), done.stderr


def test_a_callback_may_neither_wait_nor_close(model: Model) -> None:
    other, seen, ready = model.submit(np.array([1]), steps=1000), [], threading.Event()

    def progress(done: int, total: int) -> int:
        ended = c.c_int32(-1)
        ready.wait(60)
        for timeout in (-1, 5, 0):
            seen.append(model.library.dll.dd_wait(own.handle, c.c_int64(timeout), c.byref(ended), None))
            assert ended.value == 0
        model.library.dll.dd_close(model.handle)
        return 0

    own = model.submit(np.array([2]), steps=1, progress=progress)
    ready.set()
    assert own.wait() is not None
    assert seen == [1, 1, 0]
    other.cancel()
    with pytest.raises(StatusError, match="cancelled"):
        other.wait()
    assert np.isfinite(model.sample(np.array([1]), steps=2)).all()


@pytest.fixture(scope="module")
def without_step(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose update is made on the host."""
    folder = tmp_path_factory.mktemp("without") / "tiny"
    shutil.copytree(tiny_run, folder)
    limits = ParityLimits(batch_sizes=(1, 3), t_bins=2)
    target = Target(name="guided", description="t", backend="openvino", graphs=("guided",), parity=limits)
    return export(folder, target).folder


def changed(
    artifact: Path, folder: Path, name: str, extra: Callable[[dict[str, openvino.Node]], openvino.Node]
) -> Path:
    """A copy of the artifact whose graph adds to each image of its output a value, made from its inputs, (batch,)."""
    shutil.copytree(artifact, folder)
    graph = openvino.Core().read_model(folder / f"{name}.xml")
    inputs = {each: node for node in graph.get_parameters() for each in node.output(0).get_names()}
    result = graph.get_results()[0]
    made = result.input_value(0)
    names = made.get_names()
    added = ops.add(made, ops.unsqueeze(extra(inputs), ops.constant([1, 2, 3])))
    made.get_tensor().set_names(set())
    added.output(0).get_tensor().set_names(names)
    result.input(0).replace_source_output(added.output(0))
    openvino.save_model(graph, folder / "new.xml", compress_to_fp16=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    for suffix in ("xml", "bin"):
        (folder / f"new.{suffix}").replace(folder / f"{name}.{suffix}")
        manifest["files"][f"{name}.{suffix}"] = file_sha256(folder / f"{name}.{suffix}")
    seal(folder, json.dumps(manifest).encode())
    return folder


def test_a_prediction_that_is_not_finite_fails_its_own_request_alone(
    library: Library, without_step: Path, tmp_path: Path
) -> None:
    def infinite(inputs: dict[str, openvino.Node]) -> openvino.Node:  # clipping makes a finite x of it
        values = (ops.constant(np.float32(value)) for value in (np.inf, 0))
        return ops.select(ops.greater(inputs["w"], ops.constant(np.float32(100))), *values)

    folder = changed(without_step, tmp_path / "infinite", "guided", infinite)
    with Model(library, folder, threads=1, max_batch=8) as model:
        good = [model.submit(np.array([1]), seed=seed, steps=20) for seed in range(4)]
        bad = model.submit(np.array([2]), steps=20, scale=guidance("constant", w=101))
        good += [model.submit(np.array([3]), seed=seed, steps=20) for seed in range(4)]
        with pytest.raises(StatusError, match=r"w = 101\) gave a value that is not finite"):
            bad.wait()
        assert all(np.isfinite(ticket.wait()).all() for ticket in good)


def test_the_longest_deadline_is_none(model: Model) -> None:
    assert model.submit(np.array([1]), steps=3, deadline_ms=2**63 - 1).wait() is not None


def test_what_can_never_be_taken_is_no_busy_queue(library: Library, artifact: Path) -> None:
    with Model(library, artifact, threads=1, max_waiting=3) as model:
        with pytest.raises(StatusError, match="argument: count is 4, and max_waiting 3"):
            model.submit(np.zeros(4, np.int64))
        with pytest.raises(StatusError, match="argument: timing is of dd_sample"):
            model.submit(np.zeros(1, np.int64), timing=c.pointer(Timing()))


def test_the_padding_of_an_earlier_request_is_not_read(model: Model) -> None:
    earlier = {"size": Request.preview.offset, "preview_every": 77, "steps": 2}
    labels = np.array([1])
    assert model.submit(labels, **earlier).wait() is not None
    np.testing.assert_array_equal(model.sample(labels, **earlier), model.sample(labels, steps=2))


CHOOSE = """
#include "profiles.h"
#include <iostream>
int main() {
  const std::vector<dashdeploy::detail::Profile> profiles = {%s};
  for (std::int64_t batch = 1; batch <= 70; ++batch) {
    int chosen = -1;
    try { chosen = dashdeploy::detail::choose_profile(profiles, batch); } catch (const std::exception &) {}
    std::cout << chosen << " ";
  }
}
"""


def test_a_profile_is_chosen_as_in_python(tmp_path: Path) -> None:
    limits = [(1, 1, 1), (2, 4, 8), (2, 8, 8), (2, 8, 16), (20, 32, 64), (20, 32, 40)]
    profiles = [BatchRange(min=low, opt=usual, max=most) for low, usual, most in limits]

    def chosen(batch: int) -> int:
        fits = any(profile.min <= batch <= profile.max for profile in profiles)
        return choose_profile(profiles, batch) if fits else -1

    listed = ", ".join(f"{{{low}, {usual}, {most}}}" for low, usual, most in limits)
    (tmp_path / "choose.cpp").write_text(CHOOSE % listed)
    includes = (f"-I{building.SOURCES / 'src'}", f"-I{building.SOURCES / 'include'}")
    flags = ("-std=c++17", *building.WARNINGS, *includes)
    built = building.run(building.tool("c++"), *flags, tmp_path / "choose.cpp", "-o", tmp_path / "choose")
    assert built.returncode == 0, built.stderr
    said = building.run(tmp_path / "choose").stdout.split()
    assert [int(each) for each in said] == [chosen(batch) for batch in range(1, 71)]
