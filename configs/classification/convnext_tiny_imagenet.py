# ConvNeXt-T on ImageNet with torchvision's recipe (reported top-1 accuracy: 82.5 %). The recipe is the newer one of
# ResNet-50, with AdamW and a learning rate of 0.001.
_base_ = "resnet50_imagenet_v2.py"

model = dict(backbone="convnext_tiny")

optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.05))
