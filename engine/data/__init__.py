"""Data loaders that can be resumed, and what becomes of samples that cannot be read."""
