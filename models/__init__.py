"""Models: base classes, data preprocessors, weight averaging, and models for each task."""

from trainwright.engine.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
