"""`analysis.parquet`, one row a run, and the map of hidden states in it."""
