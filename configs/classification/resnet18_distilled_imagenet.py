# A ResNet-18 on ImageNet that learns from the logits of torchvision's ResNet-34, whose weights are downloaded (Hinton,
# Vinyals & Dean 2015, https://arxiv.org/abs/1503.02531). For this temperature, Huang et al. 2022
# (https://arxiv.org/abs/2205.10536) report 71.2 %; from labels alone, torchvision's ResNet-18 has 69.8 %.
_base_ = "resnet50_imagenet.py"

model = dict(
    _delete_=True,
    type="Distillation",
    student=dict(type="ImageClassifier", backbone="resnet18", num_classes=1000),
    teacher=dict(
        type="ImageClassifier",
        backbone=dict(type="TorchvisionModel", name="resnet34", num_classes=1000, weights="IMAGENET1K_V1"),
    ),
    pairs=dict(logits=dict(student="backbone", loss=dict(type="KDLoss", temperature=4))),
)
