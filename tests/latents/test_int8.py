"""The layers of a decoder that int8 leaves in float."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from dashdeploy.autoencoder import Autoencoder
from dashdeploy.export.decoder import int8_layers
from dashdeploy.export.export import export
from dashdeploy.target import load_target
from tests import latent


@pytest.mark.parametrize(
    ("layers", "in_int8"),
    [
        (["post_quant_conv", "decoder.conv_in", "decoder.mid", "decoder.conv_out"], ["decoder.mid"]),
        (["decoder.layers.0", "decoder.layers.2.conv.0", "decoder.layers.9"], ["decoder.layers.2.conv.0"]),
    ],
)
def test_the_first_and_the_last_stay_in_float(layers: list[str], in_int8: list[str]) -> None:
    assert int8_layers(layers) == in_int8


@pytest.mark.slow
def test_of_a_tiny_decoder_all_others_are_in_int8(latent_run: Path, tmp_path: Path) -> None:
    shutil.copytree(latent_run / "student", tmp_path / "run" / "student")
    Autoencoder(latent.tiny(), source="x").save(tmp_path / "tiny")
    text = "name: made\ndescription: t\ngraphs: [guided]\nopset: 20\nparity: {batch_sizes: [1, 3], t_bins: 2}\n"
    (tmp_path / "made.yaml").write_text(f"{text}vae: {{path: tiny, precision: int8, error: 0.9}}")
    made = export(tmp_path / "run", load_target(str(tmp_path / "made.yaml")))
    graph = onnx.load(made.folder / "decoder.onnx").graph
    from_int8 = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    first, *inner, last = [node.input[1] in from_int8 for node in graph.node if node.op_type == "Conv"]
    assert not first and not last and len(inner) > 2 and all(inner)
