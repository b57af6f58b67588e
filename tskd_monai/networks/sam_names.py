"""Parameter names of SAM checkpoints: the original ``segment_anything`` ones and those of ``transformers``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

ENCODER_PREFIX = "vision_encoder."
NON_ENCODER_PREFIXES = ("mask_decoder.", "prompt_encoder.", "shared_image_embedding.")

# Applied in this order to every original name. The result is the name in transformers' SamModel.
RENAMINGS: tuple[tuple[str, str], ...] = (
    (r"^image_encoder\.", ENCODER_PREFIX),
    (r"(?<=vision_encoder\.)blocks\.", "layers."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
    (r"\.norm(?=\d|_final_attn)", ".layer_norm"),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "shared_image_embedding.positional_embedding"),
)


def to_transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a SAM state dict under the names of ``transformers``' ``SamModel``.

    A checkpoint without original ``image_encoder.*`` entries is returned as it is. The prompt encoder's point, box
    and mask embeddings keep their original names: nothing here reads them.
    """
    if not any(name.startswith("image_encoder.") for name in state):
        return dict(state)
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMINGS:
        name = re.sub(pattern, replacement, name)
    return name


def encoder_entries(state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Returns the image encoder's entries without their prefix.

    Mask decoder and prompt encoder are left out; any other entry is kept under its name, so that strict loading
    reports it.

    Raises:
        ValueError: if there is no image encoder in the file.
    """
    state = to_transformers_names(state)
    if not any(name.startswith(ENCODER_PREFIX) for name in state):
        raise ValueError(
            f"Expected a SAM image encoder (image_encoder.* or vision_encoder.*) in {source}, found entries such as "
            f"{', '.join(sorted(state)[:3])}."
        )
    return {
        name.removeprefix(ENCODER_PREFIX): value
        for name, value in state.items()
        if not name.startswith(NON_ENCODER_PREFIXES)
    }
