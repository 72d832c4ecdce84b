"""The benchmark: latency, quality, guidance fidelity, and the report of them."""
