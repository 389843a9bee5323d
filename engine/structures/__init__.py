"""Containers of annotations and predictions."""
