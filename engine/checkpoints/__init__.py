"""Checkpoints: their contents, writing and reading files, and the one that a run starts from."""
