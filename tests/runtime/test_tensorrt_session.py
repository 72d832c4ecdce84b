"""The parts of the TensorRT runner that need no GPU; on one, a whole engine."""

from __future__ import annotations

import ctypes
import importlib.util
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dashdeploy.artifact import BatchRange, TensorSpec
from dashdeploy.errors import UserError
from dashdeploy.runtime import tensorrt_library
from dashdeploy.runtime.tensorrt_session import MOST_SHAPES, TensorRTSession, check_inputs, choose_profile, enqueue

ONE, FEW, MANY = (BatchRange(min=a, opt=b, max=c) for a, b, c in ((1, 1, 1), (1, 8, 16), (8, 64, 128)))
INPUTS = [
    TensorSpec(name="x", dtype="float32", shape=("batch", 1, 8, 8)),
    TensorSpec(name="y", dtype="int64", shape=("batch",)),
]


@pytest.mark.parametrize(("batch", "expected"), [(1, 0), (2, 1), (8, 1), (16, 1), (17, 2), (128, 2)])
def test_the_profile_tuned_nearest_to_the_batch_is_taken(batch: int, expected: int) -> None:
    assert choose_profile([ONE, FEW, MANY], batch) == expected


def test_of_two_profiles_tuned_alike_the_narrower_one_is_taken() -> None:
    assert choose_profile([BatchRange(min=1, opt=8, max=64), BatchRange(min=4, opt=8, max=16)], 6) == 1


@pytest.mark.parametrize("batch", [0, 129])
def test_a_batch_outside_of_all_profiles_is_told_their_limits(batch: int) -> None:
    with pytest.raises(UserError, match=rf"g\.plan: batch {batch} is outside .*\(1 to 1, 1 to 16, 8 to 128\)"):
        choose_profile([ONE, FEW, MANY], batch, source="g.plan")


def test_inputs_that_fit_give_the_batch() -> None:
    assert check_inputs([torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)], INPUTS) == 3


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            torch.zeros(3, 1, 8, 9),
            torch.zeros(3, dtype=torch.int64),
            r"x has shape \(3, 1, 8, 9\), expected \(3, 1, 8, 8\)",
        ),
        (torch.zeros(3, 1, 8, 8), torch.zeros(2, dtype=torch.int64), r"y has shape \(2,\), expected \(3,\)"),
        (torch.zeros(3, 1, 8, 8), torch.zeros(3), r"y is torch\.float32, expected torch\.int64"),
        (torch.zeros(()), torch.zeros(3, dtype=torch.int64), r"x has shape \(\)"),
    ],
)
def test_an_input_that_does_not_fit_is_named(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_inputs([x, y], INPUTS)


def test_a_wrong_number_of_inputs_is_told_the_names() -> None:
    with pytest.raises(UserError, match="got 1 inputs, expected 2: x, y"):
        check_inputs([torch.zeros(3, 1, 8, 8)], INPUTS)


class FakeContext:
    def __init__(self, result: bool) -> None:
        self.result, self.streams = result, list[int]()

    def execute_async_v3(self, stream: int) -> bool:
        self.streams.append(stream)
        return self.result


def test_an_enqueue_that_returns_false_is_an_error_with_the_shapes_and_tensorrts_words() -> None:
    good, bad = FakeContext(True), FakeContext(False)
    enqueue(good, 7, what="g.plan")
    assert good.streams == [7]
    log = SimpleNamespace(messages=[("ERROR", "first"), ("ERROR", "out of\nmemory"), ("WARNING", "slow")])
    with pytest.raises(UserError, match=r"g\.plan at x \(3, 1\): TensorRT did not run it \(out of memory\)"):
        enqueue(bad, 7, what="g.plan at x (3, 1)", errors=log)
    with pytest.raises(UserError, match=r"did not run it\. Its output"):
        enqueue(bad, 7, what="g.plan")


@pytest.mark.skipif(tensorrt_library.has_driver(), reason="is about machines without a GPU")
def test_without_a_gpu_no_tensorrt_object_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_library, "load", lambda flavour: pytest.fail("TensorRT was loaded"))
    with pytest.raises(UserError, match=r"g\.plan: TensorRT-RTX engines run on an NVIDIA GPU"):
        TensorRTSession(
            tmp_path / "g.plan",
            flavour="tensorrt_rtx",
            inputs=INPUTS,
            outputs=INPUTS[:1],
            profiles=[ONE],
            device="cuda",
        )


class FakeGpu:
    """Stands in for torch.cuda and TensorRT: keeps the order of what is asked of them; an engine doubles its input.

    A capture records what is enqueued and a replay carries it out; a captured context must not change afterwards.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, capturable: bool = True, works: bool = True) -> None:
        self.capturable, self.works, self.contexts = capturable, works, list[FakeEngineContext]()
        self.capturing: list[FakeEngineContext] | None = None
        stream = SimpleNamespace(cuda_stream=5, **dict.fromkeys(("wait_stream", "wait_event", "synchronize"), ignore))
        event = SimpleNamespace(record=ignore, synchronize=ignore)
        fakes = {
            "is_available": lambda: True,
            "current_device": lambda: 0,
            "device": lambda device: nullcontext(),
            "stream": lambda stream: nullcontext(),
            "current_stream": lambda *a: stream,
            "Stream": lambda: stream,
            "Event": lambda: event,
            "synchronize": ignore,
            "CUDAGraph": lambda: FakeGraph(self),
            "graph": lambda graph, **options: graph,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        real_zeros = torch.zeros
        monkeypatch.setattr(torch, "zeros", lambda *a, device=None, **k: real_zeros(*a, **k))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        engine = SimpleNamespace(
            num_io_tensors=2,
            num_optimization_profiles=2,
            get_tensor_name=lambda i: "xo"[i],
            create_execution_context=lambda *config: self.add(),
        )
        runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if plan == b"plan" else None)
        trt = SimpleNamespace(Runtime=lambda logger: runtime, ILogger=object)
        monkeypatch.setattr(tensorrt_library, "has_driver", lambda: True)
        monkeypatch.setattr(tensorrt_library, "load", lambda flavour: trt)

    def add(self) -> FakeEngineContext:
        self.contexts.append(FakeEngineContext(self))
        return self.contexts[-1]


def ignore(*arguments: object) -> None:
    """Does nothing."""


class FakeEngineContext:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.profile, self.captured = gpu, -1, False
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert not self.captured, "a captured context was changed"
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self.captured, "a captured context was changed"
        self.shape = shape
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self.gpu.capturable

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 5
        if self.gpu.capturing is not None:
            self.gpu.capturing.append(self)
            return True
        return self.gpu.works and self.run()

    def run(self) -> bool:
        count = math.prod(self.shape)
        x, out = ((ctypes.c_float * count).from_address(self.addresses[name]) for name in "xo")
        for i in range(count):
            out[i] = 2 * x[i]
        return True


class FakeGraph:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.recorded = gpu, list[FakeEngineContext]()

    def __enter__(self) -> None:
        self.gpu.capturing = self.recorded

    def __exit__(self, *exception: object) -> None:
        self.gpu.capturing = None
        for context in self.recorded:
            context.captured = True

    def replay(self) -> None:
        for context in self.recorded:
            context.run()


def opened(tmp_path: Path, content: bytes = b"plan") -> TensorRTSession:
    plan = tmp_path / "g.plan"
    plan.write_bytes(content)
    return TensorRTSession(
        plan,
        flavour="tensorrt_rtx",
        inputs=[TensorSpec(name="x", dtype="float32", shape=("batch", 3))],
        outputs=[TensorSpec(name="o", dtype="float32", shape=("batch", 3))],
        profiles=[ONE, MANY],
    )


def check_doubling(session: TensorRTSession, *batches: int) -> None:
    outputs = []
    for batch in batches:
        x = torch.rand(batch, 3)
        outputs.append((x, session(x)))
    for x, out in outputs:  # after all of them: an output is not overwritten by a later call
        assert torch.equal(out, 2 * x)


def test_each_batch_size_gets_its_profile_and_a_graph_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu(monkeypatch)
    with opened(tmp_path) as session:
        check_doubling(session, 1, 8, 1, 9, 8, 1)
        assert session.cuda_graph
        assert [context.profile for context in gpu.contexts] == [0, 1, 1]
        assert all(context.captured for context in gpu.contexts)
        check_doubling(session, *range(8, 8 + MOST_SHAPES), 1)
        assert len(session._prepared) == MOST_SHAPES
    with pytest.raises(UserError, match="has been closed"):
        session(torch.ones(1, 3))


def test_an_engine_that_cannot_be_captured_runs_without_a_graph_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu(monkeypatch, capturable=False)
    with opened(tmp_path) as session:
        with pytest.warns(
            RuntimeWarning, match=r"g\.plan at x \(1, 3\) .*runs without a CUDA graph \(.*not capturable"
        ):
            check_doubling(session, 1)
        assert not session.cuda_graph
        check_doubling(session, 8, 1, 9, 8)
        assert len(gpu.contexts) == 3, "the one that was tried, and one for each profile"


def test_a_run_that_fails_is_an_error_with_shapes_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, works=False)
    with opened(tmp_path) as session, pytest.raises(UserError, match=r"x \(9, 3\) \(profile 1: batch 8 to 128\)"):
        session(torch.ones(9, 3))


def test_a_plan_that_does_not_load_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch)
    with pytest.raises(UserError, match=r"g\.plan: does not load here"):
        opened(tmp_path, b"another machine's")


@pytest.mark.gpu
@pytest.mark.skipif(not tensorrt_library.has_driver() or not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_an_engine_runs_at_several_batches_from_device_and_host(flavour, tmp_path: Path) -> None:
    if any(importlib.util.find_spec(name) is None for name in (flavour, "polygraphy")):
        pytest.skip(f"needs {flavour} and polygraphy")
    if flavour == "tensorrt_rtx" and (
        tensorrt_library.compute_capability() not in tensorrt_library.RTX_COMPUTE_CAPABILITIES
    ):
        pytest.skip("TensorRT-RTX does not build for this GPU")
    from dashdeploy.export.engine.build import build
    from dashdeploy.target import Engine, Profile

    torch.manual_seed(0)
    module = torch.nn.Conv2d(1, 4, 3, padding=1).eval()
    path = tmp_path / "g.onnx"
    torch.onnx.export(
        module,
        (torch.zeros(2, 1, 8, 8),),
        path,
        input_names=["x"],
        output_names=["o"],
        dynamic_shapes=[{0: torch.export.Dim.DYNAMIC}],
        dynamo=True,
        opset_version=20,
    )
    config = Engine(profiles=(Profile(min=1, opt=1, max=1), Profile(min=2, opt=4, max=8)))
    engine = build(path, tmp_path / "g.plan", config, flavour=flavour, precision="fp32", cache=tmp_path / "cache")
    with TensorRTSession(
        tmp_path / "g.plan",
        flavour=flavour,
        inputs=engine["inputs"],
        outputs=engine["outputs"],
        profiles=engine["profiles"],
        device="cuda",
    ) as session:
        for batch in (1, 3, 8, 1, 3):
            x = torch.randn(batch, 1, 8, 8)
            expected = module(x)
            on_device, from_host = session(x.cuda()), session(x)
            assert on_device.is_cuda
            assert torch.allclose(on_device.cpu(), expected, atol=1e-4)
            assert torch.allclose(from_host.cpu(), expected, atol=1e-4)
        with pytest.raises(UserError, match="outside of the engine's profiles"):
            session(torch.zeros(9, 1, 8, 8, device="cuda"))
