"""A GAN that draws clothes: two networks with an optimizer each, trained from one forward pass.

Run `python examples/gan.py`: seven minutes on a CPU. After each epoch, samples are drawn to work_dirs/gan/*/vis_data.
"""

import torch
from torch import nn
from torch.nn.functional import softplus
from torchvision.utils import make_grid

from trainwright.engine import HOOKS, MODELS, Hook, Runner
from trainwright.models import BaseModel

NOISE = 64


def block(layer, width, channels):
    return [layer(width, channels, 4, 2, 1, bias=False), nn.BatchNorm2d(channels)]


@MODELS.register_module()
class GAN(BaseModel):
    def __init__(self):
        super().__init__(data_preprocessor=dict(type="ImgDataPreprocessor", mean=[127.5], std=[127.5]))  # to [-1, 1]
        self.generator = nn.Sequential(
            nn.Linear(NOISE, 64 * 7 * 7), nn.Unflatten(1, (64, 7, 7)), nn.BatchNorm2d(64), nn.ReLU(),
            *block(nn.ConvTranspose2d, 64, 32), nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2),
            *block(nn.Conv2d, 32, 64), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(64 * 7 * 7, 1),
        )  # fmt: skip

    def forward(self, inputs, data_samples=None, mode="loss"):
        fake = self.generator(torch.randn(len(inputs), NOISE, device=inputs.device))
        if mode != "loss":
            return fake
        real, fooled = self.discriminator(inputs), self.discriminator(fake)
        detected = self.discriminator(fake.detach())
        # Losses by the optimizer that reduces them: each changes the weights of its own network only.
        return dict(
            discriminator=dict(loss_real=softplus(-real).mean(), loss_fake=softplus(detected).mean()),
            generator=dict(loss=softplus(-fooled).mean()),
        )


@HOOKS.register_module()
class SamplesHook(Hook):
    def after_train_epoch(self, runner):
        with torch.no_grad():
            samples = runner.model.generator(torch.randn(64, NOISE, device=runner.device))
        grid = make_grid(samples.cpu(), normalize=True, value_range=(-1, 1))
        runner.visualizer.add_image("samples", (255 * grid).byte().permute(1, 2, 0).numpy(), step=runner.epoch + 1)


adam = dict(type="Adam", lr=2e-4, betas=(0.5, 0.999))
cfg = dict(
    model=dict(type="GAN"),
    work_dir="work_dirs/gan",
    train_dataloader=dict(
        batch_size=64,
        dataset=dict(type="FashionMNISTSubset"),
        sampler=dict(type="DefaultSampler", shuffle=True),
        drop_last=True,
    ),
    train_cfg=dict(max_epochs=30),
    optim_wrapper=dict(
        constructor="MultiOptimWrapperConstructor",
        generator=dict(optimizer=adam),
        discriminator=dict(optimizer=adam),
    ),
    custom_hooks=[dict(type="SamplesHook")],
    randomness=dict(seed=0),
)

if __name__ == "__main__":
    Runner.from_cfg(cfg).train()
