"""Masked autoencoders."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import MODELS
from trainwright.models.self_supervised.base import SelfSupervisedModel


@MODELS.register_module()
class MAE(SelfSupervisedModel):
    """A masked autoencoder, which reconstructs images from a few of their patches (He et al. 2022).

    Source: https://arxiv.org/abs/2111.06377. The target is the normalized pixels of each masked patch.

    Args:
        backbone: a vision transformer of torchvision or timm, with ``num_classes=0``; module or config.
        mask_ratio: part of the patches that are masked, in (0, 1).
        decoder_channels: width of the decoder.
        decoder_layers: number of transformer blocks of the decoder.
        decoder_heads: number of attention heads of the decoder.
        **kwargs: further arguments of :class:`SelfSupervisedModel`.

    Raises:
        ConfigError: the backbone is not a vision transformer, or ``mask_ratio`` is out of range.
    """

    num_views = 1
    positions: Tensor

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        mask_ratio: float = 0.75,
        decoder_channels: int = 512,
        decoder_layers: int = 8,
        decoder_heads: int = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if not 0 < mask_ratio < 1:
            raise ConfigError("model.mask_ratio", f"must be in (0, 1), not {mask_ratio}")
        self.mask_ratio = mask_ratio
        self.patches = _patches_of(self.backbone)
        width, patch, channels = self.patches.width, self.patches.size, self.patches.channels
        self.embed = nn.Linear(width, decoder_channels)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_channels))
        nn.init.normal_(self.mask_token, std=0.02)
        block = nn.TransformerEncoderLayer(
            decoder_channels, decoder_heads, 4 * decoder_channels, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        norm = nn.LayerNorm(decoder_channels)
        self.decoder = nn.TransformerEncoder(block, decoder_layers, norm, enable_nested_tensor=False)
        self.reconstruct = nn.Linear(decoder_channels, channels * patch * patch)
        rows, columns = self.patches.grid
        self.register_buffer("positions", sine_positions(rows, columns, decoder_channels), persistent=False)

    def view_losses(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the loss of a batch, the mean squared error on the masked patches."""
        (images,) = views
        tokens = self.patches.embed(self.backbone, images)
        number, total = tokens.shape[:2]
        order = torch.rand(number, total, device=tokens.device).argsort(1)
        kept = order[:, : max(1, round(total * (1 - self.mask_ratio)))]
        visible = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        encoded = self.embed(self.patches.encode(self.backbone, visible))
        whole = self.mask_token.to(encoded.dtype).repeat(number, total, 1)
        whole = whole.scatter(1, kept[..., None].expand(-1, -1, whole.shape[2]), encoded[:, 1:])
        decoded = self.decoder(torch.cat([encoded[:, :1], whole + self.positions], 1))
        found = self.reconstruct(decoded[:, 1:])
        wanted = patchify(images, self.patches.size)
        mean, variance = wanted.mean(-1, keepdim=True), wanted.var(-1, keepdim=True)
        error = (found - (wanted - mean) / (variance + 1e-6).sqrt()).square().mean(-1)
        masked = torch.ones_like(error).scatter(1, kept, 0.0)
        return {"loss": (error * masked).sum() / masked.sum()}


def patchify(images: Tensor, size: int) -> Tensor:
    """Return the pixels of each patch, of shape (N, P, C × size × size), given images (N, C, H, W)."""
    number, channels, height, width = images.shape
    patches = images.reshape(number, channels, height // size, size, width // size, size)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def sine_positions(rows: int, columns: int, width: int) -> Tensor:
    """Return fixed embeddings of the positions in a grid, of shape (rows × columns, width).

    Half of the width encodes the row, and half the column, by sines and cosines of geometric frequencies.
    """
    frequencies = 10000.0 ** (-torch.arange(width // 4) / (width / 4))
    parts = []
    for size, axis in ((rows, 1), (columns, 0)):
        angles = torch.arange(size)[:, None] * frequencies
        encoded = torch.cat([angles.sin(), angles.cos()], 1)
        parts.append(encoded.unsqueeze(axis).expand(rows, columns, -1))
    positions = torch.cat(parts, -1).flatten(0, 1)
    return nn.functional.pad(positions, (0, width - positions.shape[1]))


class _TorchvisionPatches:
    """How to run a vision transformer of torchvision on some of the patches."""

    def __init__(self, network: Any) -> None:
        self.width, self.size, self.channels = network.hidden_dim, network.patch_size, network.conv_proj.in_channels
        self.grid = (network.image_size // self.size,) * 2

    def embed(self, network: Any, images: Tensor) -> Tensor:
        return network._process_input(images) + network.encoder.pos_embedding[:, 1:]  # type: ignore[no-any-return]

    def encode(self, network: Any, tokens: Tensor) -> Tensor:
        first = network.class_token + network.encoder.pos_embedding[:, :1]
        whole = torch.cat([first.expand(len(tokens), -1, -1), tokens], 1)
        return network.encoder.ln(network.encoder.layers(network.encoder.dropout(whole)))  # type: ignore[no-any-return]


class _TimmPatches:
    """How to run a vision transformer of timm on some of the patches."""

    def __init__(self, network: Any) -> None:
        if network.num_prefix_tokens != 1 or network.pos_embed is None:
            message = "this vision transformer has other tokens than those of the patches and one for the class"
            raise ConfigError("model.backbone", message, "choose another one")
        self.width, self.size = network.embed_dim, network.patch_embed.patch_size[0]
        self.channels, self.grid = network.patch_embed.proj.in_channels, network.patch_embed.grid_size

    def embed(self, network: Any, images: Tensor) -> Tensor:
        positions = network.pos_embed if network.no_embed_class else network.pos_embed[:, 1:]
        return network.patch_embed(images) + positions  # type: ignore[no-any-return]

    def encode(self, network: Any, tokens: Tensor) -> Tensor:
        first = network.cls_token if network.no_embed_class else network.cls_token + network.pos_embed[:, :1]
        whole = torch.cat([first.expand(len(tokens), -1, -1), tokens], 1)
        return network.norm(network.blocks(network.norm_pre(whole)))  # type: ignore[no-any-return]


def _patches_of(network: Any) -> Any:
    from torchvision.models import VisionTransformer

    if isinstance(network, VisionTransformer):
        return _TorchvisionPatches(network)
    if all(hasattr(network, name) for name in ("patch_embed", "blocks", "pos_embed", "num_prefix_tokens", "norm_pre")):
        return _TimmPatches(network)
    hint = "dict(type='TorchvisionModel', name='vit_b_16', num_classes=0)"
    raise ConfigError("model.backbone", f"{type(network).__name__} is not a vision transformer", hint)
