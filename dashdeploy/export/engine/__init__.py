"""TensorRT engines: built in a worker process, cached, inspected."""
