"""Optimizers: wrappers, parameter groups and schedulers."""
