# FCOS with a small RegNet of timm on colored shapes: box mAP@50 over 0.85. Trains in four minutes on one CPU core.
# Random weights, so nothing is downloaded; pip install "trainwright[timm]".
_base_ = "fcos_mobilenet_v2_shapes.py"

model = dict(
    network=dict(
        backbone=dict(
            # Strides 8 and 16.
            body=dict(_delete_=True, type="TimmFeatures", name="regnetx_002", out_indices=(2, 3)),
        ),
    ),
)
