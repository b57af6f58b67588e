"""The encoder of MRI-CORE (Dong et al., arXiv 2506.12186): a plain ViT-B, trained on slices of MRI as DINOv2 is.

The published file is a checkpoint of the DINOv2 training program without LayerScale: the teacher's backbone, its layers
grouped in chunks, and heads that only pre-training uses. It holds neither SAM's relative positions nor its neck, so it
does not fit SAM's image encoder, which the authors' code loads a part of it into. Known from programs that read it; the
file itself could not be read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tskd_monai.networks.plain_vit import PlainVitArchitecture

PREFIX = "backbone."
PRETRAINING_ENTRIES = re.compile(r"^(dino_head\.|ibot_head\.|backbone\.mask_token$)")
CHUNK = re.compile(r"^blocks\.\d+\.(\d+)\.")
"""``blocks.CHUNK.LAYER``; layers are numbered over all chunks."""


@dataclass(frozen=True)
class MriCoreArchitecture(PlainVitArchitecture):
    """A plain ViT whose file has the names of DINOv2's training program."""

    def backbone_entries(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Returns the entries of the teacher's backbone, under timm's names.

        Raises:
            ValueError: if the file holds no backbone.
        """
        if not any(name.startswith(PREFIX) for name in state):
            raise ValueError(
                f"Expected the backbone of MRI-CORE ({PREFIX}*) in {source}, found entries such as "
                f"{', '.join(sorted(state)[:3])}."
            )
        return {
            CHUNK.sub(r"blocks.\1.", name.removeprefix(PREFIX)): value
            for name, value in state.items()
            if not PRETRAINING_ENTRIES.match(name)
        }
