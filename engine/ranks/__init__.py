"""Several processes: starting them, what they agree on, what each one has of its own, and what happens if one fails."""
