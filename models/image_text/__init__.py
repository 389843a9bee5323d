"""Models of images and texts: contrastive training, zero-shot classification and retrieval."""
