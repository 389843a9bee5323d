"""Metrics and the evaluator that runs them."""
