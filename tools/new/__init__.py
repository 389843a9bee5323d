"""``trainwright new``: look at data, report what it is, and write a config that trains on it."""
