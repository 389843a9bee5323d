# ConvNeXt-T on ImageNet by torchvision's recipe: as the newer one of ResNet-50, but AdamW, learning rate 0.001.
# torchvision reports a top-1 accuracy of 82.5 %.
_base_ = "resnet50_imagenet_v2.py"

model = dict(backbone="convnext_tiny")

optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.05))
