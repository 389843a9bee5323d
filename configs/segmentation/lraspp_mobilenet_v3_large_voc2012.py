# LR-ASPP with a MobileNetV3-Large on Pascal VOC 2012 with torchvision's recipe. The recipe is that of DeepLabV3,
# without auxiliary head.
_base_ = "deeplabv3_resnet50_voc2012.py"

model = dict(
    network=dict(name="lraspp_mobilenet_v3_large", aux_loss=False, weights_backbone="IMAGENET1K_V1"),
)
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, custom_keys={}))
