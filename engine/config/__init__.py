"""Configs: files in, dictionaries that remember where each key was set out."""

from trainwright.engine.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
