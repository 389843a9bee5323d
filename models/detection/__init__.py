"""Object detection, instance segmentation and keypoints by region: the detectors of torchvision."""
