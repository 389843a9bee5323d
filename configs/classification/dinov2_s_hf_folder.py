# DINOv2-S/14 of Hugging Face's transformers, fine-tuned on your own images with layer-wise learning rates; its weights
# are downloaded. Put the images into data/my_images/{train,val}/<class>/, and set num_classes:
#     trainwright train classification/dinov2_s_hf_folder --amp --cfg-options model.num_classes=5
# Any other model for image classification works the same: set model.pretrained to its name on the Hugging Face Hub.
# pip install "trainwright[transformers]".
_base_ = "vit_b_16_folder.py"

data_preprocessor = dict(_delete_=True, type="HuggingFacePreprocessor", batch_augments={{_base_.batch_augments}})
model = dict(_delete_=True, type="HuggingFaceClassifier", pretrained="facebook/dinov2-small", num_classes=10)
