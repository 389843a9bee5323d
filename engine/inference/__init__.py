"""Trained models that predict."""
