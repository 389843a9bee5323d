"""Datasets and transforms for object detection and instance segmentation."""
