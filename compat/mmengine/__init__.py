"""The names of MMEngine, one module for each of its packages: ``mmengine.fileio.io`` has those of ``fileio`` here."""
