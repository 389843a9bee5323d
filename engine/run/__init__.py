"""A run from its first step to its last: the Runner, its loops, hooks and counters."""
