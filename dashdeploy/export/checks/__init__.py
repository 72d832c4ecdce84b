"""What a finished artifact is held to: parity with torch, the guidance gate, whole trajectories."""
