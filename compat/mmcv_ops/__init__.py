"""The compiled operators of mmcv, on torchvision and plain PyTorch: what ``mmcv._ext`` resolves to."""
