"""The machine: it builds the parts of an experiment from a config and runs the loops."""

from trainwright.engine.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
