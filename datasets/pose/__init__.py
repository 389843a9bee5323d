"""Datasets and transforms for pose estimation."""
