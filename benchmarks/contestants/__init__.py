"""Who trains: one module for each, with a function for each variant."""
