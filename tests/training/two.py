"""A process of a launch of two: it makes sure of that, then carries out a command of dashdeploy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def launch(*arguments: str | Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Start a command as two connected processes on the CPU."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [*torchrun, "--local-addr", "localhost", __file__, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s)


if __name__ == "__main__":
    from dashdeploy import ranks
    from dashdeploy.cli.app import main

    assert ranks.state().num_processes == 2
    main(sys.argv[1:])
