"""Models of Detectron2, and others with the same inputs and outputs."""
