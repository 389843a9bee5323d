"""Semi-supervised learning: a few labeled samples, and many without labels."""
