"""What files an ONNX model names: the same in C++ and in Python, also where the model is damaged."""

from __future__ import annotations

import os
import random
from pathlib import Path

import onnx
import pytest
from building import SOURCES, run, tool
from onnx import TensorProto, helper

from dashdeploy import checked

pytestmark = pytest.mark.slow


def outside(name: str, location: str) -> TensorProto:
    """A tensor whose values lie in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def model() -> onnx.ModelProto:
    """One that names a file at every place where a tensor may be."""
    sparse = onnx.SparseTensorProto(values=outside("v", "sparse"), indices=outside("i", "../indices"))
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=outside("c", "inner"))], "body", [], [], [outside("w", "loop")]
    )
    nodes = [
        helper.make_node("Loop", ["a"], ["b"], body=inner),
        helper.make_node("Mine", ["a"], ["d"], many=[outside("m", "many")], graphs=[inner], sparse=sparse),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [outside("w", "/etc/weights")], sparse_initializer=[sparse])
    whole = helper.make_model(graph)
    function = whole.functions.add(name="f", domain="mine")
    function.node.append(helper.make_node("Constant", [], ["c"], value=outside("c", "function")))
    whole.training_info.add().algorithm.initializer.append(outside("t", "training"))
    return whole


NAMES = {"sparse", "../indices", "inner", "loop", "many", "/etc/weights", "function", "training"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("onnx") / "onnx_files"
    sources = (Path(__file__).parent / "onnx_files.cpp", SOURCES / "src" / "onnx_files.cpp")
    includes = (f"-I{SOURCES / 'src'}", f"-I{SOURCES / 'include'}")
    flags = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsanitize=address,undefined")
    done = run(tool("c++"), *flags, *includes, *sources, "-o", made)
    assert done.returncode == 0, done.stderr
    return made


def test_cpp_and_python_find_the_same_names_and_refuse_the_same_models(program: Path, tmp_path: Path) -> None:
    whole, draw = model().SerializeToString(), random.Random(0)
    texts = [whole, b"", helper.make_model(helper.make_graph([helper.make_node("EPContext", [], ["x"])], "g", [], []))]
    texts[2] = texts[2].SerializeToString()
    texts += [whole[: draw.randrange(len(whole))] for _ in range(200)]
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        texts.append(bytes(data))
    paths = [tmp_path / f"{number}.onnx" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text)
    done = run(program, input="".join(f"{path}\n" for path in paths))
    assert done.returncode == 0, done.stderr
    said = done.stdout.split("\n")[:-1]
    assert {bytes.fromhex(name[1:]).decode() for name in said[0].split()} == NAMES
    refused = 0
    for text, line in zip(texts, said, strict=True):
        try:
            names = {f"x{os.fsencode(name).hex()}" for name in checked.external_files(text, source="m")}
        except ValueError:
            names, refused = {"refused"}, refused + 1
        assert set(line.split()) == names
    assert refused > 200


def test_the_walk_goes_down_every_field_that_leads_to_a_tensor() -> None:
    kinds = {
        **{"model": onnx.ModelProto, "graph": onnx.GraphProto, "node": onnx.NodeProto, "tensor": onnx.TensorProto},
        **{"attribute": onnx.AttributeProto, "function": onnx.FunctionProto, "sparse": onnx.SparseTensorProto},
        **{"training": onnx.TrainingInfoProto, "external": onnx.StringStringEntryProto},
    }
    names = {kind.DESCRIPTOR.name: name for name, kind in kinds.items()}
    for name, kind in kinds.items():
        fields = {f.number: names.get(f.message_type.name) for f in kind.DESCRIPTOR.fields if f.message_type}
        leading = {number: held for number, held in fields.items() if held not in (None, "external")}
        if name == "tensor":
            leading = {kind.DESCRIPTOR.fields_by_name["external_data"].number: "external"}
        assert checked.MESSAGES[name] == leading, name
