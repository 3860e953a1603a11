"""Each stage against the naive way to the same outputs, in one run."""
