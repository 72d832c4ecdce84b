"""samples.npz: what is read back is what was drawn, and a file that does not fit its record is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dashdeploy.bench.record.grids import FILE, Grids, read_grids, write_grids
from dashdeploy.bench.record.record import Record, load_record
from dashdeploy.errors import UserError

Payload = dict[str, Any]
Write = Callable[[Payload], Path]


def test_grids_survive_writing_and_reading_in_the_records_order(record: Record, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 2)
    drawn = {key: generator.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8) for key in reversed(record.models)}
    write_grids(tmp_path / FILE, Grids(drawn, labels, columns=2))
    read = read_grids(tmp_path / FILE, record)
    assert list(read.images) == list(record.models) and read.columns == 2
    np.testing.assert_array_equal(read.labels, labels)
    for key, images in drawn.items():
        np.testing.assert_array_equal(read.images[key], images)


def test_a_missing_samples_file_is_a_users_mistake(write_folder: Write, payload: Payload) -> None:
    folder = write_folder(payload)
    (folder / FILE).unlink()
    with pytest.raises(UserError, match="cannot read the sample images"):
        read_grids(folder / FILE, load_record(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.full(20, 10)},
        {"labels": np.zeros(7, int)},
        {"columns": 0},
        {"other": np.zeros((20, 1, 8, 8), np.uint8)},
        {"student": np.zeros((20, 1, 8, 8), np.float32)},
        {"student": np.zeros((19, 1, 8, 8), np.uint8)},
    ],
)
def test_samples_that_do_not_fit_the_record_are_refused(
    write_folder: Write, payload: Payload, change: dict[str, Any]
) -> None:
    folder = write_folder(payload)
    with np.load(folder / FILE) as file:
        arrays = {name: file[name] for name in file.files} | change
    np.savez(folder / FILE, **arrays)
    with pytest.raises(UserError, match="do not fit the record"):
        read_grids(folder / FILE, load_record(folder))
