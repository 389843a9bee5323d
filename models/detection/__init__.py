"""Object detection, instance segmentation and keypoint detection with torchvision's detectors."""
