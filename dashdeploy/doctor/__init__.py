"""The doctor: which parts of the environment work on this machine, which do not, why, and how to repair them."""
