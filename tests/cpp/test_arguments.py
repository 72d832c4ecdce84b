"""Calls that make no sense get a status and a line of text, and the handle goes on working."""

from __future__ import annotations

import ctypes as c
from pathlib import Path

import numpy as np
import pytest
from library import Info, Library, Model, OpenOptions, Request, StatusError, guidance

pytestmark = pytest.mark.slow

LABELS = np.array([1, 2])
NAN = float("nan")
BROKEN_SCHEDULE = np.array([1, NAN, 1, 1], np.float32)


@pytest.fixture(scope="module")
def model(library: Library, artifact: Path):
    with Model(library, artifact, threads=1) as opened:
        yield opened


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"labels": None}, "labels is NULL"),
        ({"count": 0}, "count is 0; expected 1"),
        ({"count": -3}, "count is -3"),
        ({"count": 2**62}, "count is 4611686018427387904"),
        ({"steps": -1}, "steps is -1; expected 1 ... 1000"),
        ({"steps": 1001}, "steps is 1001"),
        ({"size": 0}, "request.size is not set"),
        ({"size": 2**40}, "request.size is not set"),
        ({"guidance": guidance("constant", w=-1)}, "w is -1; expected a number >= 0"),
        ({"guidance": guidance("constant", w=NAN)}, "expected a number >= 0"),
        ({"guidance": guidance("tag", w=4, w_min=-1, beta=5)}, "TAG needs"),
        ({"guidance": guidance("tag", w=4, w_min=1, beta=NAN)}, "TAG needs"),
        ({"guidance": guidance("interval", w=3, low=0.8, high=0.2)}, "0 <= low < high <= 1"),
        ({"guidance": guidance("interval", w=3, low=0.5, high=1.5)}, "0 <= low < high <= 1"),
        ({"guidance": guidance("schedule")}, "schedule is NULL"),
        ({"guidance": guidance("schedule", BROKEN_SCHEDULE)}, "the scale of step 1 is nan"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(model: Model, fields: dict, text: str) -> None:
    with pytest.raises(StatusError) as caught:
        model.sample(LABELS, **fields)
    assert caught.value.status == "argument"
    assert text in caught.value.text
    assert np.isfinite(model.sample(LABELS)).all()


def test_an_unknown_kind_of_guidance_is_refused(model: Model) -> None:
    scale = guidance()
    scale.kind = 77
    with pytest.raises(StatusError, match="kind 77 is not known"):
        model.sample(LABELS, scale=scale)


@pytest.mark.parametrize("label", [-1, 10, 2**62])
def test_a_label_out_of_range_is_named(model: Model, label: int) -> None:
    with pytest.raises(StatusError, match=rf"labels\[1\] is {label}; the artifact has the classes 0 ... 9"):
        model.sample(np.array([0, label]))


def test_a_step_whose_values_are_not_finite_is_named(model: Model) -> None:
    noise = np.full((2, 64), 3e38, np.float32)
    for progress in (lambda done, total: 0, None):  # by the loop, and where the sampler graph fits, by that
        with pytest.raises(
            StatusError, match=r"^not_finite: (step 1 of 4 \(t = 999, w = 2\)|the sampler graph) gave a"
        ):
            model.sample(LABELS, noise=noise, progress=progress)
    with pytest.raises(StatusError, match="not_finite: the step gave a value that is not finite"):
        model.step(noise.copy(), *(np.array(v) for v in ([500, 500], [400, 400])), LABELS, np.ones(2, np.float32))
    assert np.isfinite(model.sample(LABELS)).all()


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_noise_that_is_no_number_is_refused(model: Model, value: float) -> None:
    noise = np.zeros((2, 64), np.float32)
    noise[1, 3] = value
    with pytest.raises(StatusError, match=r"noise\[67\] is not a finite number"):
        model.sample(LABELS, noise=noise)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"t": [1000]}, r"t\[0\] is 1000"),
        ({"t": [-1]}, r"t\[0\] is -1"),
        ({"t_prev": [500]}, r"t_prev\[0\] is 500"),
        ({"t_prev": [-2]}, r"t_prev\[0\] is -2"),
        ({"labels": [10]}, r"labels\[0\] is 10"),
        ({"w": [NAN]}, r"w\[0\] is not a finite number"),
    ],
)
def test_a_step_that_cannot_be_made_is_refused(model: Model, values: dict, text: str) -> None:
    given = {"t": [500], "t_prev": [400], "labels": [1], "w": [2.0], **values}
    arrays = [np.array(given[name], np.float32 if name == "w" else np.int64) for name in ("t", "t_prev", "labels", "w")]
    with pytest.raises(StatusError, match=text):
        model.step(np.zeros((1, 64), np.float32), *arrays)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"threads": -1}, "threads is -1; expected 0 ... 1024"),
        ({"threads": 5000}, "threads is 5000"),
        ({"device": -1}, "device is -1"),
        ({"max_batch": -1}, "max_batch is -1"),
        ({"max_batch": 1 << 20}, "max_batch is 1048576"),
    ],
)
def test_options_out_of_range_are_refused(library: Library, artifact: Path, options: dict, text: str) -> None:
    with pytest.raises(StatusError, match=text):
        Model(library, artifact, **options)


@pytest.mark.parametrize("key", ["RWQ", "/nonexistent/mine.pub", "A" * 56, "\xff\xfe"])
def test_a_public_key_that_is_none_is_refused(library: Library, artifact: Path, key: str) -> None:
    with pytest.raises(StatusError) as caught:
        Model(library, artifact, public_key=key.encode("latin-1"))
    assert caught.value.status == "argument"


def test_missing_pointers_are_refused_and_a_message_may_be_left_out(library: Library, artifact: Path) -> None:
    none = c.c_void_p()
    for name, arguments in (
        ("dd_open", (str(artifact).encode(), None, None)),
        ("dd_open", (None, None, c.byref(none))),
        ("dd_sample", (None, c.byref(Request()), None)),
        ("dd_get_info", (None, c.byref(Info()))),
        ("dd_noise", (c.c_uint64(0), c.c_uint64(0), c.c_int64(1), c.c_int64(1), None)),
    ):
        with pytest.raises(StatusError, match="is NULL"):
            library.call(name, *arguments)
    assert library.dll.dd_open(None, None, c.byref(none), None) == 1
    library.dll.dd_close(None)


def test_a_caller_built_with_an_older_header_is_served(library: Library, artifact: Path) -> None:
    handle, older = c.c_void_p(), OpenOptions(size=c.sizeof(c.c_size_t) + 4, threads=1, max_batch=-5)
    library.call("dd_open", str(artifact).encode(), c.byref(older), c.byref(handle))
    info = Info(size=Info.num_classes.offset, num_classes=-7)
    library.call("dd_get_info", handle, c.byref(info))
    assert (info.width, info.num_classes) == (8, -7)  # what it does not know is not written
    library.dll.dd_close(handle)


def test_only_the_interface_is_exported(released: Path) -> None:
    from building import run, tool

    listed = run(tool("nm"), "-D", "--defined-only", released / "libdashdeploy.so").stdout.split("\n")
    ours = {line.split()[-1] for line in listed if " T " in line}
    assert {name for name in ours if name.startswith("dd_")} == {
        *("dd_open", "dd_close", "dd_get_info", "dd_class_name", "dd_sample", "dd_step", "dd_plan", "dd_noise"),
        *("dd_noises", "dd_decode", "dd_submit", "dd_wait", "dd_cancel", "dd_status_name", "dd_version", "dd_backends"),
    }
    assert not {name for name in ours if "dashdeploy" in name}
