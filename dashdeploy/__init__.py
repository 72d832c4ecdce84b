"""dashdeploy: compress a class-conditional diffusion model and deploy it with its guidance intact."""

import os
import sys
from typing import Any

__version__ = "0.1.0"

# No telemetry. ONNX Runtime reads the variable when it is imported, here or in a process that is started from here; 0
# turns it on. OpenVINO and NNCF send nothing where openvino_telemetry cannot be imported; import it first to keep it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
_modules: dict[str, Any] = sys.modules
_modules.setdefault("openvino_telemetry", None)
