"""One probe in this process: python -m dashdeploy.doctor.child NAME FILE writes the finding as JSON to FILE.

A file, because what libraries print on stdout is theirs.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from pathlib import Path

from dashdeploy.doctor.probes import PROBES

PR_SET_PDEATHSIG = 1


def main(name: str, path: Path) -> None:
    """Run the probe and write what it found."""
    if sys.platform == "linux":  # the doctor may be killed itself, and can end nobody then
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    path.write_text(json.dumps(PROBES[name]().as_dict()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
