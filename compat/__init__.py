"""The doorway for OpenMMLab's libraries, which run on this engine unmodified.

After :func:`install`, ``import mmengine`` gives the objects of this project, and mmcv's operators need no compiler.
"""

from trainwright.engine.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
