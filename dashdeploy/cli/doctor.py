"""`dashdeploy doctor`: what works on this machine, what does not, why, and the command that puts it right."""

from __future__ import annotations

import typer

from dashdeploy.cli.options import AsJson

STYLES = {"ok": "green", "missing": "yellow", "broken": "bold red", "info": "dim"}


def doctor(*, as_json: AsJson = False) -> None:
    """Check Python, torch, ONNX Runtime and its providers, OpenVINO, both TensorRT flavours, driver and GPU.

    Each part is tried in a process of its own, so that a library that crashes is a row here. Exit code 1 if an
    installed part is broken, or no runtime for artifacts works; an optional part that is missing is no failure.
    """
    import json

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from dashdeploy.doctor.examine import backends, examine, healthy

    findings = examine()
    if as_json:
        print(json.dumps([{"probe": name, **found.as_dict()} for name, found in findings.items()], indent=2))
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("", "Part", "Version", "Detail", "What to do"):
            table.add_column(heading, overflow="fold")
        for found in findings.values():
            status = Text(found.status, style=STYLES[found.status])
            table.add_row(status, Text(found.name), Text(found.version), Text(found.detail), Text(found.fix))
        console = Console(width=max(Console().width, 120))
        console.print(table)
        where = backends(findings)
        print(f"\nexports for: {', '.join(where['export']) or 'nothing'}")
        print(f"runs here:   {', '.join(where['run']) or 'nothing'}")
    if not healthy(findings):
        raise typer.Exit(1)
