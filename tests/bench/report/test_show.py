from __future__ import annotations

from pathlib import Path

from dashdeploy.bench.record.record import dumps
from dashdeploy.bench.report.show import show


def test_a_narrow_terminal_loses_no_column(record, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    (tmp_path / "bench.json").write_text(dumps(record))
    show(tmp_path)
    out = capsys.readouterr().out
    assert "…" not in out.replace("…,", "")
    for label in ("teacher (torch)", "student (ONNX Runtime)", "Guidance"):
        assert label in out
