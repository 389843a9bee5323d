"""Datasets that are drawn by a program: for examples and tests."""
