"""Switching the doorway on."""

from trainwright.compat import finder, libraries


def install() -> None:
    """Let OpenMMLab's libraries run on this engine, in this process. Calling it again changes nothing.

    Call it before the first import of ``mmengine`` or of a library that uses it. A real MMEngine is neither needed nor
    loaded.

    Raises:
        ImportError: the real MMEngine was imported before.
    """
    finder.install()
    libraries.install()
