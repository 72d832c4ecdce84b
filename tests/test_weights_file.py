from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open

from dashdeploy.weights_file import write_safetensors

WRITE = """
import sys, torch
from pathlib import Path
from dashdeploy.weights_file import write_safetensors
write_safetensors(Path(sys.argv[1]), {"b": torch.ones(3), "a": torch.zeros(2, 2)}, dict.fromkeys("zyxwvu", "1"))
"""


def test_the_same_values_are_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    names = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for name in names:
        subprocess.run([sys.executable, "-c", WRITE, str(name)], check=True)
    assert len({hashlib.sha256(name.read_bytes()).hexdigest() for name in names}) == 1


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    tensors = {"λ": torch.randn(5), "w": torch.arange(6, dtype=torch.float16).view(2, 3)}
    write_safetensors(tmp_path / "x.safetensors", tensors, {"kind": "tirt", "name": "größe"})
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"kind": "tirt", "name": "größe"}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
