# A tiny CLIP of Hugging Face's transformers, from scratch on drawn shapes with captions: 43 % zero-shot accuracy of 24
# classes, in two minutes on one CPU core. The classes are found by their names, in images of one shape; the training
# has images of two. Mean and standard deviation over three seeds:
#                                         untrained     captions of other images     this config
#     zero-shot accuracy                4.6 ± 0.9 %                        2.8 %    43.2 ± 2.1 %
#     mean of recall@1, 5 and 10        2.4 ± 0.5 %                        4.6 %    84.1 ± 1.3 %
# The recalls are those of 200 images and 600 captions. pip install "trainwright[transformers]".
_base_ = "../_base_/default_runtime.py"

train_dataset = dict(
    type="CaptionedShapes",
    num_samples=2000,
    pipeline=[dict(type="RandomCaption"), dict(type="PackInputs")],
)
model = dict(
    type="HuggingFaceCLIP",
    config=dict(
        model_type="clip",
        projection_dim=64,
        vision_config=dict(
            image_size=48,
            patch_size=8,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
        ),
        text_config=dict(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=20,
        ),
    ),
    tokenizer=dict(type="WordTokenizer", dataset=train_dataset, vocab_size=64),
    image_processor=dict(size=48, crop_size=48),
    templates=["a small {}", "a large {}"],
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=train_dataset,
    sampler=dict(type="DefaultSampler", shuffle=True),
    drop_last=True,
    collate_fn=dict(type="pseudo_collate"),
)
evaluation = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    zero_shot=dict(
        **evaluation,
        dataset=dict(
            type="CaptionedShapes",
            num_samples=400,
            num_shapes=1,
            seed=1,
            pipeline=[dict(type="PackInputs")],
            test_mode=True,
        ),
    ),
    captions=dict(
        **evaluation,
        dataset=dict(
            type="CaptionedShapes", num_samples=200, seed=2, pipeline=[dict(type="PackInputs")], test_mode=True
        ),
    ),
)
val_evaluator = dict(zero_shot=dict(type="Accuracy"), captions=dict(type="ImageTextRetrievalMetric"))
test_dataloader = val_dataloader
test_evaluator = val_evaluator

max_epochs = 20
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=5)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, custom_keys={"logit_scale": dict(decay_mult=0)}),
)
param_scheduler = dict(type="OneCycleLR", eta_max=2e-3, total_steps=max_epochs, convert_to_iter_based=True)
default_hooks = dict(checkpoint=dict(interval=5, save_best="zero_shot/accuracy/top1"))
