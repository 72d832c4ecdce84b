"""Export: ONNX graphs, their checks, and the artifact folder."""
