"""`sample --npz`: a set of images in ADM's layout, whoever draws which part of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import dashdeploy
from dashdeploy.cli.app import main
from dashdeploy.errors import UserError
from dashdeploy.runtime import image_set
from tests.training.two import launch

NUM, STEPS = 25, 3


def call(*arguments: object) -> object:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as archive:
        assert archive.files == ["arr_0", "arr_1"]
        return archive["arr_0"], archive["arr_1"]


def test_a_set_holds_the_images_of_all_classes_in_turn(tiny_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    options = ("--num-images", NUM, "--steps", STEPS, "-w", 2, "--seed", 5)
    assert not call("sample", tiny_run / "student", "--npz", path, *options)
    images, labels = load(path)
    assert labels.tolist() == [i % 10 for i in range(NUM)] and labels.dtype == np.int64
    with dashdeploy.open(tiny_run / "student") as model:
        np.testing.assert_array_equal(images, model.sample(labels, guidance=2.0, steps=STEPS, seed=5))
    first = path.read_bytes()
    assert not call("sample", tiny_run / "student", "--npz", path, *options)
    assert path.read_bytes() == first and [p.name for p in tmp_path.iterdir()] == ["set.npz"]

    assert not call("sample", tiny_run / "student", "--npz", path, *options, "--labels", "7,2")
    assert load(path)[1].tolist() == [7, 2] * 12 + [7]


def test_parts_of_batches_are_joined(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--num-images", NUM, "--steps", STEPS)
    assert not call("sample", tiny_run / "student", "--npz", tmp_path / "one.npz", *options)
    monkeypatch.setattr("dashdeploy.cli.sample.SET_BATCH", 4)
    assert not call("sample", tiny_run / "student", "--npz", tmp_path / "parts.npz", *options)
    (one, _), (parts, _) = load(tmp_path / "one.npz"), load(tmp_path / "parts.npz")
    # Arithmetic may depend on the batch in the last bit, and a value in the middle of two levels with it.
    assert np.abs(one.astype(int) - parts).max() <= 1 and (one != parts).mean() < 0.01


@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
@pytest.mark.parametrize("num_images", [1, 2, 25])
def test_each_image_is_the_share_of_one_process(
    num_processes: int, num_images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []
    for rank in range(num_processes):
        here = SimpleNamespace(num_processes=num_processes, process_index=rank)
        monkeypatch.setattr("dashdeploy.ranks.state", lambda here=here: here)
        shares.append(image_set.share(num_images))
    assert [i for own in shares for i in own] == list(range(num_images))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_process_takes_its_gpu_without_asking_for_it_of_a_model_on_the_cpu(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = SimpleNamespace(num_processes=2, process_index=1, is_main_process=False, device="cuda:1")
    monkeypatch.setattr("dashdeploy.ranks.state", lambda: here)
    monkeypatch.setattr("dashdeploy.ranks.on_cpu", lambda: False)

    def opened(path: Path, **how: object) -> None:
        raise UserError(f"opened by {how}")

    monkeypatch.setattr("dashdeploy.runtime.opening.open_path", opened)
    assert call("sample", tiny_run, "--npz", tmp_path / "set.npz", "--num-images", 2) == 2
    assert "'device': None" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_make_the_set_of_one(tiny_run: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    arguments = ("sample", tiny_run / "student", "--num-images", str(NUM), "--steps", str(STEPS), "--npz")
    assert not call(*arguments, one)
    done = launch(*arguments, two)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(two)) == 1, "one of them prints the result"
    (images, labels), (others, other_labels) = load(one), load(two)
    assert labels.tolist() == other_labels.tolist()
    assert np.abs(images.astype(int) - others).max() <= 1 and (images != others).mean() < 0.01
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.npz", "two.npz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--npz", "set.npz"), "--npz FILE and --num-images N belong together"),
        (("--num-images", 5), "--npz FILE and --num-images N belong together"),
        (
            ("--npz", "set.npz", "--num-images", 5, "--columns", 4),
            "--columns: of a picture, and --npz makes",
        ),
        (("--npz", "set.npz", "--num-images", 5, "-o", "a.png", "--scale", 2), "--out, --scale: of a picture"),
        (("--npz", "set.zip", "--num-images", 5), "--npz set.zip: expected a file name that ends in .npz"),
        (("--npz", "none/set.npz", "--num-images", 5), "--npz none/set.npz: the folder none does not exist"),
        (("--npz", "set.npz", "--num-images", 5, "--labels", "3,10"), "class index 10 is out of range"),
        (("--npz", "set.npz", "--num-images", 0), "should be greater than or equal to 1"),
    ],
)
def test_what_is_no_set_is_one_line_and_leaves_nothing(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("sample", tiny_run / "student", *options) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())
