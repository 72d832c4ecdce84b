"""The benchmark's record: its rows, how it is read, and how two are compared."""
