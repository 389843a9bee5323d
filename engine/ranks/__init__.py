"""Several processes that train together: what each rank has of its own, and what all of them agree on."""
