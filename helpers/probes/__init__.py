"""Linear and small non-linear probes: fitted, chosen, stored, assessed."""
