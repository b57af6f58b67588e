"""Published parameter names of DINOv2 and DINOv3, and those of the ``transformers`` classes that they are loaded into.

Three kinds of files are read: the authors' own (fused ``qkv``), those of the Hugging Face hub, and those under the
names of the installed ``transformers``. Entries that serve only pre-training or classification are left out by name;
any other entry is kept, so that strict loading reports it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

Renamings = Sequence[tuple[str, str]]

DINOV2_RENAMINGS: Renamings = (
    (r"^dinov2(_with_registers)?\.", ""),
    (r"^(cls_token|register_tokens|mask_token)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.", ".attention."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"^norm\.", "layernorm."),
    (r"\.attention\.attention\.(q|k|v)(uery|ey|alue)\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
)
"""Renaming of the authors' and the hub's names to those of ``Dinov2Model``, applied in this order."""

DINOV3_RENAMINGS: Renamings = (
    (r"^(cls_token|mask_token)$", r"embeddings.\1"),
    (r"^storage_tokens$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"^(blocks|layer)\.", "model.layer."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.", ".attention."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.(fc1|w2)\.", ".mlp.up_proj."),
    (r"\.mlp\.(fc2|w3)\.", ".mlp.down_proj."),
    (r"\.mlp\.w1\.", ".mlp.gate_proj."),
)
"""Renaming of the authors' and the hub's names to those of ``DINOv3ViTModel``, applied in this order."""

NOT_OF_THE_ENCODER = re.compile(r"^(embeddings\.mask_token$|classifier\.|head\.)")
"""The mask token serves only pre-training, a classifier only classification."""
KEY_BIAS_IS_ZERO = re.compile(r"\.attention\.(qkv\.bias_mask|k_proj\.bias)$")
"""DINOv3 has no bias of the keys: the authors' file holds one, and a mask that multiplies it by zero."""
FUSED = ".attention.qkv."
PERIODS = "rope_embed.periods"
PERIOD_TOLERANCE = 0.01  # bfloat16 keeps eight bits


def dinov2_entries(state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Returns the entries of a DINOv2 file under the names of ``Dinov2Model`` and ``Dinov2WithRegistersModel``.

    Raises:
        ValueError: if the file holds no such encoder.
    """
    entries = _renamed(state, DINOV2_RENAMINGS)
    if "embeddings.cls_token" not in entries or "embeddings.position_embeddings" not in entries:
        raise ValueError(_message("DINOv2", state, source))
    return entries


def dinov3_entries(state: Mapping[str, Tensor], source: str | Path, rope_theta: float) -> dict[str, Tensor]:
    """Returns the entries of a DINOv3 file under the names of ``DINOv3ViTModel``.

    Args:
        state: tensors by name.
        source: path of the weights, for error messages.
        rope_theta: base of the periods of the rotary positions, which the authors' file states.

    Raises:
        ValueError: if the file holds no such encoder, or its rotary positions have other periods.
    """
    entries = _renamed(state, DINOV3_RENAMINGS)
    if "embeddings.cls_token" not in entries or not any(name.startswith("model.layer.") for name in entries):
        raise ValueError(_message("DINOv3 ViT", state, source))
    periods = entries.pop(PERIODS, None)
    if periods is not None and not periods.is_meta:
        expected = rope_theta ** (torch.arange(len(periods)) / len(periods))
        if not torch.allclose(periods.float(), expected, rtol=PERIOD_TOLERANCE):
            raise ValueError(f"Expected rotary positions of base {rope_theta:g} in {source}, found other periods.")
    return {name: value for name, value in entries.items() if not KEY_BIAS_IS_ZERO.search(name)}


def _renamed(state: Mapping[str, Tensor], renamings: Renamings) -> dict[str, Tensor]:
    """Renames entries, splits fused query, key and value, and leaves out what is not part of the encoder."""
    entries: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, replacement in renamings:
            name = re.sub(pattern, replacement, name)
        if FUSED in name and not name.endswith("bias_mask"):
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                entries[name.replace(FUSED, f".attention.{part}_proj.")] = rows
        elif not NOT_OF_THE_ENCODER.match(name):
            entries[name] = value
    return entries


def _message(model: str, state: Mapping[str, Tensor], source: str | Path) -> str:
    return f"Expected a {model} encoder in {source}, found entries such as {', '.join(sorted(state)[:3])}."
