"""The main study: semantic entropy, and probes that read it."""
