"""The embedded default: word problems, a small language model, a small judge, and their recipes."""
