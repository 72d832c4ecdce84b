"""The packages stage: an artifact with all that a C++ program or a Triton server needs."""
