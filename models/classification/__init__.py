"""Models for image classification."""
