"""Several processes: starting them, what they agree on, and what happens when one of them fails."""
