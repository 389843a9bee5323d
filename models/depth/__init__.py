"""Depth estimation: loss and metric."""
