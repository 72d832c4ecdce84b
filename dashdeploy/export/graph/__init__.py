"""The student as ONNX graphs: what is traced, rewritten, assembled and saved."""
