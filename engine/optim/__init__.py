"""Optimisation: the wrapper around the optimizer, parameter groups, schedulers."""
