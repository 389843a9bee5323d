"""Modules in place of packages that the libraries import, and that no longer exist or cannot be installed."""
