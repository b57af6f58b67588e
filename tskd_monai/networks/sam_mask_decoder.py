"""SAM's mask decoder without user prompts: one mask token per class.

The two-way transformer is ``transformers``' ``SamMaskDecoder`` (Kirillov et al., "Segment Anything", 2023). No point,
box or mask is given: the dense prompt is SAM's "no mask" embedding everywhere, and K learned tokens, one per class,
query the K masks (cf. SAMed, Zhang and Liu, arXiv 2304.13785). The masks have four times the resolution of the image
embeddings, in SAM a quarter of the image's; a small refinement, which SAM does not have, adds the image's detail.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder as TwoWayMaskDecoder

from tskd_monai.networks.encoders import EncoderOutput
from tskd_monai.networks.light_decoder import ConvBlock, UpStep
from tskd_monai.networks.sam_encoder import to_transformers_names
from tskd_monai.networks.weights_file import load_strictly

logger = logging.getLogger(__name__)

LAYER_NORM_EPS = 1e-5  # the reference's value; transformers' default is 1e-6
DECODER_PREFIX = "mask_decoder."
POSITIONS = "shared_image_embedding.positional_embedding"
NO_MASK = "prompt_encoder.no_mask_embed.weight"
SAM_MULTIMASK_TOKENS = 3
KEPT_PREFIXES = ("decoder.iou_prediction_head.", "refinement.")
HQ_ENTRIES = re.compile(
    r"^(hf_token|hf_mlp|compress_vit_feat|embedding_encoder|embedding_maskfeature"
    r"|hq_token|hq_mask_mlp|(compress_vit|encoder|mask)_(conv\d|norm))\."
)
"""What SAM-HQ adds to SAM's mask decoder, under its authors' names and those of ``transformers``."""
SAM2_ENTRY = f"{DECODER_PREFIX}obj_score_token.weight"
"""An entry that SAM 2's mask decoder, which differs from SAM's, has under the names of ``transformers``."""


class DetailRefinement(nn.Module):
    """A residual correction of logits at image size, from the logits at a quarter of it; zero before training.

    Args:
        num_classes: channels of the logits.
        in_channels: channels of the image (3 after the encoder's normalisation).
        widths: channels at full and half resolution, multiples of 8.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, widths: tuple[int, int] = (16, 32)) -> None:
        super().__init__()
        full, half = widths
        self.at_full = ConvBlock(in_channels, full)
        self.at_half = ConvBlock(full, half, stride=2)
        self.to_half = UpStep(num_classes, half)
        self.to_full = UpStep(half, full)
        self.classify = nn.Conv2d(full, num_classes, kernel_size=1)
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]  # the layer has a bias

    def forward(self, low_res_logits: Tensor, images: Tensor) -> Tensor:
        """Returns ``(B, num_classes, H, W)``.

        Args:
            low_res_logits: ``(B, num_classes, H / 4, W / 4)``.
            images: ``(B, in_channels, H, W)``, normalised.
        """
        full = self.at_full(images)
        maps = self.to_half(low_res_logits, self.at_half(full))
        return self.classify(self.to_full(maps, full))


class SamMaskDecoder(nn.Module):
    """Class logits at image size from image embeddings.

    Args:
        embed_dim: channels of the image embeddings; 256 for SAM's own weights.
        num_classes: number of classes, background included.
        num_heads: attention heads; must divide ``embed_dim / 2``.
        refine: whether a refinement by the image corrects the logits; untrained it adds nothing.

    Raises:
        ValueError: if there are fewer than two classes or ``embed_dim`` cannot be divided among the heads.
    """

    default_lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")
    positional_matrix: Tensor

    def __init__(self, embed_dim: int, num_classes: int, num_heads: int = 8, *, refine: bool = True) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"Expected at least 2 classes, background included, found num_classes={num_classes}.")
        if embed_dim % (2 * num_heads) or embed_dim % 8:
            raise ValueError(
                f"Expected embed_dim divisible by 8 and by 2 * num_heads = {2 * num_heads}, found {embed_dim}."
            )
        self.num_classes = num_classes
        self.decoder = TwoWayMaskDecoder(decoder_config(embed_dim, num_classes, num_heads))
        self.no_mask_embed = nn.Parameter(torch.zeros(embed_dim))
        self.register_buffer("positional_matrix", torch.randn(2, embed_dim // 2))
        self.refinement = DetailRefinement(num_classes) if refine else None
        self._freeze_unused()

    def _freeze_unused(self) -> None:
        """Freezes SAM's single-mask head and its IoU head: plain DDP refuses parameters without gradient."""
        self.decoder.output_hypernetworks_mlps[0].requires_grad_(False)
        self.decoder.iou_prediction_head.requires_grad_(False)

    def train_heads(self) -> None:
        """Makes the layers after the two-way transformer trainable, which turn tokens and embeddings into masks."""
        decoder = self.decoder
        heads = [decoder.mask_tokens, decoder.output_hypernetworks_mlps, decoder.upscale_conv1, decoder.upscale_conv2]
        for head in (*heads, decoder.upscale_layer_norm, self.no_mask_embed, self.refinement):
            if head is not None:
                head.requires_grad_(True)
        self._freeze_unused()

    def forward(self, encoded: EncoderOutput, images: Tensor) -> Tensor:
        """Decodes the output of an encoder.

        Args:
            encoded: the encoder's output; only ``image_embeddings`` are used.
            images: ``(B, 3, H, W)``, normalised; without refinement only their size is used.

        Returns:
            Logits ``(B, num_classes, H, W)``, upsampled bilinearly from four times the resolution of the embeddings
            and refined.
        """
        low_res = self.low_res_logits(encoded.image_embeddings)
        logits = F.interpolate(low_res, size=images.shape[-2:], mode="bilinear", align_corners=False)
        if self.refinement is None:
            return logits
        quarter = F.adaptive_avg_pool2d(low_res, (images.shape[-2] // 4, images.shape[-1] // 4))
        return logits + self.refinement(quarter, images)

    def low_res_logits(self, image_embeddings: Tensor) -> Tensor:
        """Returns logits ``(B, num_classes, 4 h, 4 w)`` from embeddings ``(B, embed_dim, h, w)``."""
        batch, channels, height, width = image_embeddings.shape
        masks, _ = self.decoder(
            image_embeddings=image_embeddings,
            image_positional_embeddings=grid_positions(self.positional_matrix, height, width).expand(batch, -1, -1, -1),
            sparse_prompt_embeddings=None,
            dense_prompt_embeddings=self.no_mask_embed.view(1, channels, 1, 1).expand(batch, -1, height, width),
            multimask_output=True,
        )
        return masks.squeeze(1)


def grid_positions(matrix: Tensor, height: int, width: int) -> Tensor:
    """Returns SAM's random Fourier features of the token centres.

    ``[sin(2 pi M^T c), cos(2 pi M^T c)]`` with centres ``c = (x, y)`` in [-1, 1] (Tancik et al., 2020).

    Args:
        matrix: ``(2, C / 2)``.
        height: tokens along the rows.
        width: tokens along the columns.

    Returns:
        ``(1, C, height, width)``.
    """
    rows = (torch.arange(height, device=matrix.device, dtype=matrix.dtype) + 0.5) / height
    columns = (torch.arange(width, device=matrix.device, dtype=matrix.dtype) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    angles = 2 * math.pi * ((2 * torch.stack([x, y], dim=-1) - 1) @ matrix)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1).unsqueeze(0)


def has_decoder_entries(state: Mapping[str, Tensor]) -> bool:
    """Returns whether a state dict, under original or ``transformers`` names, holds a mask decoder of SAM's shape."""
    return SAM2_ENTRY not in state and any(name.startswith(DECODER_PREFIX) for name in state)


def without_hq_entries(entries: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Returns the entries of a mask decoder without those that SAM-HQ adds, and logs that they are not used.

    SAM-HQ trained only these: a token, its head and convolutions that fuse the encoder's features (Ke et al., 2023).
    The others are SAM's own.

    Args:
        entries: entries of a mask decoder, without prefix.
        source: path of the weights, for the log.
    """
    kept = {name: value for name, value in entries.items() if not HQ_ENTRIES.match(name)}
    if len(kept) < len(entries):
        number = len(entries) - len(kept)
        logger.warning(
            "Not using the %d entries that SAM-HQ adds to SAM's mask decoder in %s.", number, Path(source).name
        )
    return kept


def initialise_from_sam(decoder: SamMaskDecoder, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Loads SAM's mask decoder into ``decoder``, in place.

    The transformer and the upscaling are loaded unchanged. SAM's three multi-mask tokens and their heads are assigned
    to the classes in turn. The IoU head, which does not affect the logits, and the refinement keep their values.

    Args:
        decoder: decoder with SAM's own ``embed_dim`` and number of heads.
        state: SAM state dict under original or ``transformers`` names.
        source: path of the weights, for error messages.

    Raises:
        ValueError: if entries are missing, unexpected or of the wrong shape; names them.
    """
    state = to_transformers_names(state)
    for name in (POSITIONS, NO_MASK, DECODER_PREFIX + "mask_tokens.weight"):
        if name not in state:
            raise ValueError(f"Expected {name} in the SAM weights {source}, found none.")
    theirs = {name.removeprefix(DECODER_PREFIX): v for name, v in state.items() if name.startswith(DECODER_PREFIX)}
    theirs = without_hq_entries(theirs, source)
    entries = {
        name: v for name, v in theirs.items() if not name.startswith(("mask_tokens", "output_hyper", "iou_pred"))
    }
    tokens = [0] + [1 + index % SAM_MULTIMASK_TOKENS for index in range(decoder.num_classes)]
    entries["mask_tokens.weight"] = theirs["mask_tokens.weight"][tokens]
    for ours, token in enumerate(tokens):
        entries |= _renumbered_head(theirs, token, ours)
    entries = {f"decoder.{name}": value for name, value in entries.items()}
    entries |= {"no_mask_embed": state[NO_MASK].flatten(), "positional_matrix": state[POSITIONS]}
    own = decoder.state_dict()
    entries |= {name: value for name, value in own.items() if name.startswith(KEPT_PREFIXES)}
    load_strictly(decoder, entries, source)


def _renumbered_head(state: Mapping[str, Tensor], token: int, ours: int) -> dict[str, Tensor]:
    """Returns the entries of one token's output head under the number of the new token."""
    prefix = f"output_hypernetworks_mlps.{token}."
    return {
        f"output_hypernetworks_mlps.{ours}.{name.removeprefix(prefix)}": value
        for name, value in state.items()
        if name.startswith(prefix)
    }


def decoder_config(embed_dim: int, num_masks: int, num_heads: int) -> SamMaskDecoderConfig:
    """Returns the dimensions of SAM's mask decoder.

    Args:
        embed_dim: channels of the image embeddings.
        num_masks: masks beside the single one that SAM returns for an unambiguous prompt.
        num_heads: attention heads.
    """
    return SamMaskDecoderConfig(
        hidden_size=embed_dim,
        mlp_dim=8 * embed_dim,
        num_attention_heads=num_heads,
        num_multimask_outputs=num_masks,
        iou_head_hidden_dim=embed_dim,
        layer_norm_eps=LAYER_NORM_EPS,
        attn_implementation="sdpa",
    )
