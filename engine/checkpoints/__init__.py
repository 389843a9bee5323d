"""Checkpoint files: what they hold, how they are written, and which one a run starts from."""
