"""`dashdeploy doctor`: what works on this machine, what does not, why, and the command that repairs it."""

from __future__ import annotations

from dashdeploy.cli.output import Result

STYLES = {"ok": "green", "missing": "yellow", "broken": "bold red", "info": "dim"}


def doctor() -> Result:
    """Check Python, torch, ONNX Runtime and its providers, OpenVINO, both TensorRT flavours, driver and GPU.

    Each part is tried in a separate process, so that a library that crashes is a row of the table. Exit code 1 if an
    installed part is broken, or if no runtime for artifacts works. A missing optional part is no failure.
    """
    from rich.table import Table
    from rich.text import Text

    from dashdeploy.doctor.examine import backends, examine, healthy
    from dashdeploy.doctor.probes import PROBES
    from dashdeploy.report.table import print_rich

    rows = examine()
    where = backends(rows)

    def show() -> None:
        table = Table(box=None, pad_edge=False)
        for heading in ("", "Part", "Version", "Detail", "What to do"):
            table.add_column(heading, overflow="fold")
        for name, row in rows.items():
            cells = (PROBES[name].title, row.version, row.detail, row.fix)
            table.add_row(Text(row.status, style=STYLES[row.status]), *map(Text, cells))
        print_rich(table, least_width=120)
        print(f"\nexports for: {', '.join(where['export']) or 'nothing'}")
        print(f"runs here:   {', '.join(where['run']) or 'nothing'}")

    parts = [{"probe": name, "name": PROBES[name].title, **row._asdict()} for name, row in rows.items()]
    return Result({"parts": parts, **where}, show, code=0 if healthy(rows) else 1)
