"""Training: one loop, and the objectives and data sources that make it teach or distil."""
