"""The student as ONNX graphs: they are rewritten, traced, assembled and saved."""
