"""Config files, and dictionaries that remember where each key was set."""

from trainwright.engine.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
