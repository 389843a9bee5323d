"""Datasets that a program draws: toy points, shapes, and shapes that move. They serve demonstrations and tests."""
