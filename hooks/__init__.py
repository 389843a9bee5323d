"""What happens around a step: one class a file."""

from trainwright.engine.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
