"""The preflight: what a run will need, looked at before it starts."""
