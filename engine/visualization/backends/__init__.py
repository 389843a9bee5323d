"""Where a run's scalars, images and config are written to, one backend a file."""
