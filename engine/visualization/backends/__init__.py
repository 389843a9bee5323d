"""Backends that write the scalars, images and config of a run."""
