"""Students: the architecture that a compression ratio asks for."""
