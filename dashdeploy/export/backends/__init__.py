"""What turns ONNX graphs into the form that each runtime loads."""
