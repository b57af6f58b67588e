"""SAM, MedSAM and LiteMedSAM as they are published: masks of an image from boxes and points.

Prompt encoder and mask decoder are ``transformers``' (Kirillov et al., "Segment Anything", 2023); the image encoder is
one of this project's, at the image size of a task. Coordinates are pixels of the image, ``x`` to the right and ``y``
down, and integers name pixel centres, as in the published code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam.configuration_sam import SamConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

from tskd_monai.networks.encoder_records import ENCODERS, encoder_record
from tskd_monai.networks.encoders import ImageEncoder
from tskd_monai.networks.pretrained import RANDOM, build_encoder, weights_path
from tskd_monai.networks.sam_encoder import ENCODER_PREFIX, SamArchitecture, to_transformers_names
from tskd_monai.networks.sam_mask_decoder import (
    DECODER_PREFIX,
    POSITIONS,
    SAM_MULTIMASK_TOKENS,
    decoder_config,
    grid_positions,
    without_hq_entries,
)
from tskd_monai.networks.tiny_vit import TinyVitArchitecture
from tskd_monai.networks.weights_file import load_strictly, read_weights

PROMPTABLE = (SamArchitecture, TinyVitArchitecture)
"""Architectures of image encoders whose models take SAM's prompts."""
PROMPT_PREFIX = "prompt_encoder."
OWN_POSITIONS = "shared_embedding.positional_embedding"
SAM_HEADS = 8
POSITION_SCALE = 1
"""Standard deviation of random position frequencies, as in SAM; ``transformers`` takes half of ``hidden_size``."""


class PromptableSegmenter(nn.Module):
    """A segmentation model of the SAM family: masks of what boxes and points name.

    Args:
        encoder: encodes the images.
        prompt_encoder: encodes prompts in pixels of a square image.
        mask_decoder: decodes image embeddings and prompts to masks.

    Attributes:
        image_size: ``(H, W)`` in pixels, the only input size accepted.
    """

    def __init__(self, encoder: ImageEncoder, prompt_encoder: SamPromptEncoder, mask_decoder: SamMaskDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    @property
    def image_size(self) -> tuple[int, int]:
        """``(H, W)`` in pixels."""
        return self.encoder.image_size

    def embed(self, images: Tensor) -> Tensor:
        """Returns the image embeddings ``(B, E, h, w)`` of images ``(B, 1 | 3, H, W)`` in [0, 1].

        Raises:
            ValueError: if the size or the number of channels is another.
        """
        return self.encoder(images).image_embeddings

    def masks(
        self,
        embedding: Tensor,
        boxes: Tensor | None = None,
        *,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
    ) -> Tensor:
        """Returns one mask for each prompt as logits ``(N, H, W)``; see :meth:`low_res_logits`."""
        low_res = self.low_res_logits(embedding, boxes, points=points, point_labels=point_labels)
        return F.interpolate(low_res[:, None], size=self.image_size, mode="bilinear", align_corners=False)[:, 0]

    def low_res_logits(
        self,
        embedding: Tensor,
        boxes: Tensor | None = None,
        *,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
    ) -> Tensor:
        """Returns one mask for each prompt as logits at the decoder's resolution.

        Args:
            embedding: ``(E, h, w)``, one image's from :meth:`embed`.
            boxes: ``(N, 4)`` as ``x1 y1 x2 y2`` in pixels, the last pixel included.
            points: ``(N, P, 2)`` as ``x y`` in pixels, P points for each mask.
            point_labels: ``(N, P)``, 1 for a point in the structure, 0 for one outside.

        Returns:
            ``(N, 4 h, 4 w)``; the mask is where they are above 0.

        Raises:
            ValueError: if there are neither boxes nor points, or their shapes do not fit.
        """
        check_prompts(boxes, points, point_labels)
        _, height, width = embedding.shape
        sparse = self._sparse_embeddings(boxes, points, point_labels)
        if sparse.shape[1] == 0:
            return embedding.new_zeros(0, 4 * height, 4 * width)
        return self.decode(embedding[None], sparse)[0][0, :, 0]

    def decode(self, embeddings: Tensor, sparse: Tensor, *, multimask: bool = False) -> tuple[Tensor, Tensor]:
        """Decodes embedded prompts of several images.

        Args:
            embeddings: ``(B, E, h, w)`` from :meth:`embed`.
            sparse: ``(B, N, tokens, E)`` from the prompt encoder.
            multimask: whether each prompt gets three masks, of the whole and its parts, instead of one.

        Returns:
            Logits ``(B, N, M, 4 h, 4 w)`` of M masks for each prompt, and the predicted IoU of each ``(B, N, M)``.
        """
        no_mask = self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand_as(embeddings)
        positions = grid_positions(self.prompt_encoder.shared_embedding.positional_embedding, *embeddings.shape[2:])
        return self.mask_decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=positions.expand_as(embeddings),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=no_mask,
            multimask_output=multimask,
        )

    def _sparse_embeddings(self, boxes: Tensor | None, points: Tensor | None, point_labels: Tensor | None) -> Tensor:
        """Returns the prompts' embeddings ``(1, N, tokens, E)``."""
        device = self.prompt_encoder.no_mask_embed.weight.device
        corners = None if boxes is None else self._to_square(boxes.to(device).view(-1, 2, 2)).view(1, -1, 4)
        if points is not None and point_labels is not None:
            points, point_labels = self._to_square(points.to(device))[None], point_labels.to(device)[None]
        sparse, _ = self.prompt_encoder(points, point_labels, corners, None)
        return sparse

    def _to_square(self, points: Tensor) -> Tensor:
        """Maps ``(..., 2)`` from pixels of the image to pixels of the square that the prompt encoder refers to."""
        height, width = self.image_size
        scale = self.prompt_encoder.input_image_size / points.new_tensor([width, height], dtype=torch.float32)
        return (points.float() + 0.5) * scale - 0.5


def check_prompts(boxes: Tensor | None, points: Tensor | None, point_labels: Tensor | None) -> None:
    """Checks the shapes of prompts.

    Raises:
        ValueError: if there is no prompt, a shape is another, or points lack labels; states what was found.
    """
    if boxes is None and points is None:
        raise ValueError("Expected boxes or points as prompts, found neither.")
    if boxes is not None and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise ValueError(f"Expected boxes of shape (N, 4) as x1 y1 x2 y2, found {tuple(boxes.shape)}.")
    if (points is None) != (point_labels is None):
        raise ValueError("Expected points and point_labels together, found one of them.")
    if points is None or point_labels is None:
        return
    if points.ndim != 3 or points.shape[2] != 2 or point_labels.shape != points.shape[:2]:
        raise ValueError(
            f"Expected points of shape (N, P, 2) and point_labels of shape (N, P), found {tuple(points.shape)} and "
            f"{tuple(point_labels.shape)}."
        )
    if boxes is not None and len(boxes) != len(points):
        raise ValueError(f"Expected as many boxes as sets of points, found {len(boxes)} and {len(points)}.")


def build_promptable(
    name: str, weights: str | Path | None, image_size: int | Sequence[int], *, seed: int = 0
) -> PromptableSegmenter:
    """Builds a promptable model at the image size of a task, frozen and in evaluation mode.

    Args:
        name: key of ``encoder_records.ENCODERS``.
        weights: as in :func:`tskd_monai.networks.pretrained.build_encoder`, of a whole model: encoder, prompt encoder
            and mask decoder.
        image_size: side or ``(H, W)`` in pixels, multiples of 16 up to 1024.
        seed: seed of random weights.

    Raises:
        ValueError: if the name is unknown or that of a model without SAM's prompts, the file has no prompt encoder, or
            the weights do not fit strictly.
        FileNotFoundError: if the weights are missing.
    """
    _check_promptable(name)
    path = weights_path(name, weights)
    encoder = build_encoder(name, RANDOM if path is None else path, image_size, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prompt_encoder = SamPromptEncoder(_prompt_config(encoder.embed_dim, encoder_record(name).image_size))
        mask_decoder = SamMaskDecoder(decoder_config(encoder.embed_dim, SAM_MULTIMASK_TOKENS, SAM_HEADS))
    model = PromptableSegmenter(encoder, prompt_encoder, mask_decoder)
    if path is not None:
        _load(model, to_transformers_names(read_weights(path)), path)
    return model.requires_grad_(False).eval()


def published_state(model: PromptableSegmenter) -> dict[str, Tensor]:
    """Returns the weights of a model under the names of ``transformers``' ``SamModel``, as they are published.

    Args:
        model: model with SAM's image encoder, at the size that its weights are trained at.
    """
    prompts = model.prompt_encoder.state_dict()
    return {
        POSITIONS: prompts.pop(OWN_POSITIONS),
        **{ENCODER_PREFIX + name: value for name, value in model.encoder.backbone.state_dict().items()},
        **{PROMPT_PREFIX + name: value for name, value in prompts.items()},
        **{DECODER_PREFIX + name: value for name, value in model.mask_decoder.state_dict().items()},
    }


def _check_promptable(name: str) -> None:
    """Checks that an encoder is that of a model with SAM's prompt encoder and mask decoder.

    Raises:
        ValueError: if not; names the models that are.
    """
    if not isinstance(encoder_record(name).architecture, PROMPTABLE):
        known = [record.name for record in ENCODERS.values() if isinstance(record.architecture, PROMPTABLE)]
        raise ValueError(f"Expected a model that takes SAM's prompts ({', '.join(known)}), found {name}.")


def _prompt_config(embed_dim: int, image_size: int) -> SamConfig:
    return SamConfig(
        vision_config={"num_pos_feats": embed_dim // 2, "hidden_size": 2 * POSITION_SCALE},
        prompt_encoder_config={"hidden_size": embed_dim, "image_size": image_size},
    )


def _load(model: PromptableSegmenter, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads prompt encoder and mask decoder from a file under the names of ``transformers``, strictly."""
    if POSITIONS not in state or not any(name.startswith(DECODER_PREFIX) for name in state):
        raise ValueError(
            f"Expected a whole SAM (image encoder, prompt encoder and mask decoder) in {path}, found only the image "
            "encoder; give the published file."
        )
    prompts = _part(state, PROMPT_PREFIX) | {OWN_POSITIONS: state[POSITIONS]}
    load_strictly(model.prompt_encoder, prompts, path)
    load_strictly(model.mask_decoder, without_hq_entries(_part(state, DECODER_PREFIX), path), path)


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
