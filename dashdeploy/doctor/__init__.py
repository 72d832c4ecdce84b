"""The doctor: what of the optional parts works on this machine, what does not, why, and what puts it right."""
