"""Datasets and transforms for video recognition."""
