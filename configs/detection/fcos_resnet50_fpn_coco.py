# FCOS with a ResNet-50-FPN on COCO with torchvision's recipe (reported box mAP: 39.2). The recipe of Faster R-CNN with
# a learning rate of 0.01 and mixed precision.
_base_ = "faster_rcnn_resnet50_fpn_coco.py"

model = dict(network=dict(name="fcos_resnet50_fpn"))
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=0.01))
