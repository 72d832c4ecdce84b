"""Metrics: features, Fréchet and kernel distances, guidance fidelity."""
