# RetinaNet with a ResNet-50 on COCO, by torchvision's recipe, which reaches a box mAP of 36.4: as Faster R-CNN's, with
# a learning rate of 0.01.
_base_ = "faster_rcnn_resnet50_fpn_coco.py"

model = dict(network=dict(name="retinanet_resnet50_fpn"))
optim_wrapper = dict(optimizer=dict(lr=0.01))
