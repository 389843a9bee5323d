# Large-scale jitter (Ghiasi et al. 2021, "Simple copy-paste"): resize to 0.1 to 2.0 times the size that fits into
# 1024 x 1024 pixels, then crop or pad to 1024 x 1024. The paper trains for hundreds of epochs. For instance
# segmentation, set with_mask=True. Use: train_dataloader = dict(dataset=dict(pipeline={{_base_.large_scale_jitter}}))
large_scale_jitter = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomHorizontalFlip"),
    dict(type="ScaleJitter", target_size=(1024, 1024), scale_range=(0.1, 2.0)),
    dict(type="RandomCrop", size=(1024, 1024), pad_if_needed=True, fill=114),
    dict(type="SanitizeBoundingBoxes", min_size=2),
    dict(type="PackInputs"),
]
