"""A front as a table, a plot and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dashdeploy.bench.record.front import front
from dashdeploy.bench.record.record import Record, parse
from dashdeploy.bench.report.front import front_plot, front_table, write_front


def test_the_table_has_the_fastest_first_and_marks_the_best(few: dict[str, Any], record: Record) -> None:
    found = front({"many": record, "few": parse(json.dumps(few))}, batch_size=64)
    table = front_table(found)
    rows = [dict(zip(table.headings, row, strict=True)) for row in table.rows]
    assert (rows[0]["Run"], rows[0]["Model"], rows[0]["Steps"]) == ("few", "student (ONNX Runtime)", "4")
    assert (rows[0]["Evaluations an image"], rows[0]["Parameters"], rows[0]["On the front"]) == ("4", "316,033", "yes")
    assert rows[-1]["Model"] == "teacher (torch)" and not rows[-1]["On the front"]
    assert [row[1].startswith("**") for row in front_table(found, bold=True).rows] == [p.best for p in found.points]
    assert "times at w=2" in front_table(front({"a": record}, batch_size=8, guidance="1.5")).title


def test_the_plot_has_every_models_evaluations_and_every_run(few: dict[str, Any], record: Record) -> None:
    drawn = front_plot(front({"many": record, "few": parse(json.dumps(few))}, batch_size=64))
    texts = [element.text for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert {"teacher", "many", "few", "student (torch)", "student (ONNX Runtime)"} <= set(texts)
    assert texts.count("100") >= 3 and texts.count("4") == 2


def test_the_files_hold_the_front(record: Record, tmp_path: Path) -> None:
    found = front({"a": record}, batch_size=8)
    write_front(found, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    content = json.loads((folder / "front.json").read_text())
    assert [p["model"] for p in content["points"]] == [p.model for p in found.points]
    assert content["points"][0]["ms"]["value"] == found.points[0].ms.value and content["batch_size"] == 8
    assert "| a | **student (ONNX Runtime)** | 316,033 | 50 | 100 |" in (folder / "front.md").read_text()
    assert (folder / "front.svg").read_text().startswith("<svg")
