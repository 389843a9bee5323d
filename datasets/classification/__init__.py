"""Datasets for image classification."""
