"""Learning with few labels: semi-supervised and few-shot learning, and retrieval."""
