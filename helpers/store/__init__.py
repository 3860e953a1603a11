"""What is kept on disk: files, the cache of stored results, run folders, hub downloads."""
