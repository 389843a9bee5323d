# UPerNet of Hugging Face's transformers with a small ResNet on colored shapes: mIoU over 75 in three minutes on one CPU
# core. Made from a config, so nothing is downloaded; pip install "trainwright[transformers]".
_base_ = ["../_base_/datasets/shapes_segmentation.py", "../_base_/default_runtime.py"]

data_preprocessor = None  # the model has its image processor
model = dict(
    type="HuggingFaceSegmentor",
    config=dict(
        model_type="upernet",
        backbone_config=dict(
            model_type="resnet",
            embedding_size=16,
            hidden_sizes=[16, 32, 64, 64],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        hidden_size=32,
        pool_scales=[1, 2],
        auxiliary_in_channels=64,
        auxiliary_channels=32,
    ),
    num_classes=4,  # background, circle, square, triangle
    image_processor=dict(size=96),
)

max_epochs = 12
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=3)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-2))
param_scheduler = dict(type="OneCycleLR", eta_max=5e-3, total_steps=max_epochs, convert_to_iter_based=True)
default_hooks = dict(checkpoint=dict(interval=3, save_best="seg/mIoU"))
