"""What a probe finds: the one row of the doctor's table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "missing", "broken", "info"]
STATUSES: tuple[Status, ...] = ("ok", "missing", "broken", "info")
CPU_RUNS = "CPUExecutionProvider: runs"
"""In ONNX Runtime's detail: its artifacts run here, whatever its other providers do."""


@dataclass(frozen=True)
class Finding:
    """A part of the machine or of the environment.

    Attributes:
        status: ok; missing: optional and not installed; broken: installed, or required, and does not work; info.
        version: '' where there is none.
        detail: what works, or why it does not.
        fix: the command, or the one step, that puts it right; '' where nothing needs it.
    """

    name: str
    status: Status
    version: str = ""
    detail: str = ""
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
