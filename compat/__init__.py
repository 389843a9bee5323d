"""The doorway for OpenMMLab's libraries, which run on this engine unmodified."""
