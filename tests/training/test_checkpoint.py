from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from dashdeploy import stages
from dashdeploy.errors import UserError
from dashdeploy.training import checkpoint


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"step": 3, "weights": torch.arange(4.0)}, key="k")
    state = checkpoint.load(tmp_path, key="k")
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.arange(4.0))


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, key="k") is None


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"step": 1}, key="k")
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        checkpoint.save(tmp_path, {"step": 2, "bad": lambda: None}, key="k")
    state = checkpoint.load(tmp_path, key="k")
    assert state is not None
    assert state["step"] == 1


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"step": 1}, key="k")
    with pytest.raises(UserError, match="another recipe"):
        checkpoint.load(tmp_path, key="other")


def test_a_checkpoint_that_would_run_code_is_refused_without_running_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    with stages.replacing(tmp_path / checkpoint.FILE) as part:  # its hash says that nothing is damaged
        torch.save({"format": 1, "key": "k", "evil": Evil()}, part)
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(tmp_path, key="k")
    assert not (tmp_path / "ran").exists()


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    with stages.replacing(tmp_path / checkpoint.FILE) as part:
        torch.save({"format": 99, "key": "k"}, part)
    with pytest.raises(UserError, match="format 99"):
        checkpoint.load(tmp_path, key="k")


def test_one_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"step": 3, "weights": torch.arange(64.0)}, key="k")
    path = tmp_path / checkpoint.FILE
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged .*--fresh"):
            checkpoint.load(tmp_path, key="k")
