"""Reading of image files, and of images in memory, for datasets, inference and pictures of predictions."""
