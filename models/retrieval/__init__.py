"""Retrieval and re-identification."""
