"""Masked autoencoders: pre-training of a student by reconstructing masked patches of images.

Source: He et al. 2022 (Masked Autoencoders Are Scalable Vision Learners). U-Nets cannot skip patches: there the masked
patches are set to 0, and a small head replaces the last block, which predicts class logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_monai.networks.encoders import PATCH_SIZE, run_layers, token_grid
from tskd_monai.networks.features import NetworkPart, train_only
from tskd_monai.networks.plain_vit import INITIALISER_STD, LAYER_NORM_EPS, Block
from tskd_monai.networks.students import student_size
from tskd_monai.networks.unets import CompactUNet, PlannedUNet
from tskd_monai.networks.vit_student import VitStudent, vit_of

VIT_MASK_RATIO = 0.75
UNET_MASK_RATIO = 0.6
DECODER_WIDTH, DECODER_HEADS, DECODER_DEPTH = 128, 4, 2


def draw_mask(batch: int, patches: int, ratio: float, device: torch.device) -> Tensor:
    """Returns which patches are masked, bool (B, N), the same number in each image, from torch's global generator.

    Args:
        batch: number of images B.
        patches: number of patches N.
        ratio: fraction of patches to mask; at least one patch is masked, and at least one is visible.
        device: device of the mask.
    """
    masked = min(max(round(ratio * patches), 1), patches - 1)
    ranks = torch.rand(batch, patches, device=device).argsort(dim=1).argsort(dim=1)
    return ranks < masked


class VitMaskedAutoencoder(nn.Module):
    """Reconstructs images from the visible patches, the only ones that the encoder sees.

    Args:
        network: student; its light decoder is frozen.
        in_channels: channels of the images.
        mask_ratio: fraction of patches to mask.
    """

    def __init__(self, network: VitStudent, in_channels: int, mask_ratio: float = VIT_MASK_RATIO) -> None:
        super().__init__()
        train_only(network, network.encoder)
        self.network, self.in_channels, self.mask_ratio = network, in_channels, mask_ratio
        self.grid = token_grid(network.encoder.image_size)
        self.embed = nn.Linear(network.encoder.embed_dim, DECODER_WIDTH)
        self.mask_token = nn.Parameter(INITIALISER_STD * torch.randn(1, 1, DECODER_WIDTH))
        self.positions = nn.Parameter(INITIALISER_STD * torch.randn(1, self.grid[0] * self.grid[1], DECODER_WIDTH))
        self.blocks = nn.ModuleList(Block(DECODER_WIDTH, DECODER_HEADS) for _ in range(DECODER_DEPTH))
        self.norm = nn.LayerNorm(DECODER_WIDTH, eps=LAYER_NORM_EPS)
        self.predict = nn.Linear(DECODER_WIDTH, in_channels * PATCH_SIZE**2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Returns `reconstruction` and `images` (B, C, H, W), and the `mask` (B, 1, H / 16, W / 16), 1 where masked."""
        mask = draw_mask(images.shape[0], self.positions.shape[1], self.mask_ratio, images.device)
        patches = self.decode(self.encode_visible(images, mask), mask).transpose(1, 2)
        reconstruction = F.fold(patches, images.shape[-2:], kernel_size=PATCH_SIZE, stride=PATCH_SIZE)
        return {"reconstruction": reconstruction, "images": images, "mask": _as_map(mask, self.grid)}

    def encode_visible(self, images: Tensor, mask: Tensor) -> Tensor:
        """Returns the encoder's tokens (B, V, E) of the patches outside the mask (B, N), in the images' order."""
        encoder = self.network.encoder
        vit = encoder.backbone
        tokens = vit.patch_embed(encoder.normalise(images)) + vit.pos_embed[:, 1:]
        visible = tokens[~mask].unflatten(0, (images.shape[0], -1))
        class_token = (vit.cls_token + vit.pos_embed[:, :1]).expand(images.shape[0], -1, -1)
        tokens, _ = run_layers(vit.blocks, torch.cat([class_token, visible], dim=1), (), recompute=False)
        return vit.norm(tokens)[:, 1:]

    def decode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Returns the pixels of every patch, (B, N, C * 16 * 16), from the visible tokens (B, V, E)."""
        embedded = self.embed(tokens)
        filled = self.mask_token.to(embedded.dtype).repeat(*mask.shape, 1)
        filled[~mask] = embedded.flatten(0, 1)
        hidden, _ = run_layers(self.blocks, filled + self.positions, (), recompute=False)
        return self.predict(self.norm(hidden))


class UnetMaskedAutoencoder(nn.Module):
    """Reconstructs images whose masked patches are 0 with a U-Net without its last block.

    Args:
        network: student; its last block is frozen.
        trunk: network without its last block.
        in_channels: channels of the images.
        mask_ratio: fraction of patches of 16 x 16 pixels to mask.
    """

    def __init__(
        self, network: nn.Module, trunk: NetworkPart, in_channels: int, mask_ratio: float = UNET_MASK_RATIO
    ) -> None:
        super().__init__()
        train_only(network, trunk.module)
        self.network, self.trunk, self.mask_ratio = network, trunk.module, mask_ratio
        self.head = nn.Sequential(
            nn.Conv2d(trunk.channels, 4 * in_channels, kernel_size=3, padding=1), nn.PixelShuffle(2)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Returns `reconstruction` and `images` (B, C, H, W), and the `mask` (B, 1, H / 16, W / 16), 1 where masked."""
        grid = token_grid((images.shape[-2], images.shape[-1]))
        mask = _as_map(draw_mask(images.shape[0], grid[0] * grid[1], self.mask_ratio, images.device), grid)
        visible = images * (1 - F.interpolate(mask, scale_factor=float(PATCH_SIZE), mode="nearest"))
        return {"reconstruction": self.head(self.trunk(visible)), "images": images, "mask": mask}


def masked_autoencoder(
    network: nn.Module, student: str, in_channels: int, mask_ratio: float | None = None
) -> VitMaskedAutoencoder | UnetMaskedAutoencoder:
    """Returns the masked autoencoder of a student; training it trains the student's weights.

    Args:
        network: student.
        student: name of the student.
        in_channels: channels of the images.
        mask_ratio: fraction of patches to mask; None: 0.75 for a ViT, 0.6 for a U-Net.

    Raises:
        ValueError: when the ratio is not between 0 and 1.
    """
    if mask_ratio is not None and not 0 < mask_ratio < 1:
        raise ValueError(f"Expected a --mask_ratio between 0 and 1, found {mask_ratio}.")
    size = student_size(student)
    if isinstance(size, CompactUNet | PlannedUNet):
        return UnetMaskedAutoencoder(network, size.trunk(network), in_channels, mask_ratio or UNET_MASK_RATIO)
    return VitMaskedAutoencoder(vit_of(network), in_channels, mask_ratio or VIT_MASK_RATIO)


def _as_map(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Reshapes a mask (B, N) to float (B, 1, h, w)."""
    return mask.float().unflatten(1, (1, *grid))
