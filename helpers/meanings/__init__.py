"""Which answers mean the same: judges, and clustering of what they say."""
