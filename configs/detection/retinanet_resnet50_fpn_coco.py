# RetinaNet with a ResNet-50-FPN on COCO with torchvision's recipe (reported box mAP: 36.4). The recipe of Faster R-CNN
# with a learning rate of 0.01.
_base_ = "faster_rcnn_resnet50_fpn_coco.py"

model = dict(network=dict(name="retinanet_resnet50_fpn"))
optim_wrapper = dict(optimizer=dict(lr=0.01))
