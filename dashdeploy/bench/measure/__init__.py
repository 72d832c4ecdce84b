"""What the benchmark measures: latency, memory, loading, quality, guidance fidelity."""
