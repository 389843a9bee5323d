# FCOS with a ResNet-50 on COCO, by torchvision's recipe, which reaches a box mAP of 39.2: as Faster R-CNN's, with a
# learning rate of 0.01 and mixed precision.
_base_ = "faster_rcnn_resnet50_fpn_coco.py"

model = dict(network=dict(name="fcos_resnet50_fpn"))
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=0.01))
