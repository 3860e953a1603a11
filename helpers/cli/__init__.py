"""The command `sep`, and what it explains."""
