"""Building a teacher from config values."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tskd_monai.files.checksum import file_sha256
from tskd_monai.networks.encoders import ImageEncoder, image_size_hw
from tskd_monai.networks.light_decoder import LightDecoder
from tskd_monai.networks.lora import QKV, add_lora
from tskd_monai.networks.pretrained import RANDOM, build_encoder, named_weights, weights_path
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder, has_decoder_entries, initialise_from_sam
from tskd_monai.networks.teacher import VfmSegmenter
from tskd_monai.networks.weights_file import read_weights

logger = logging.getLogger(__name__)

DECODERS = ("light", "sam")
TUNINGS = ("lora", "full", "decoder")


@dataclass(frozen=True)
class TeacherSpec:
    """All values that a teacher is built from, as plain JSON.

    Attributes:
        encoder: name in ``encoder_records.ENCODERS``.
        encoder_weights: path or hub id, ``"shipped"`` or ``"random"``.
        weights_sha256: sha256 of the weights file; ``None`` for random weights.
        image_size: ``(H, W)`` in pixels.
        num_classes: number of classes, background included.
        decoder: ``"light"`` or ``"sam"``.
        decoder_lora: whether LoRA is added to the SAM decoder's attention.
        refine: whether the SAM decoder's logits are refined by the image.
        tuning: ``"lora"``, ``"full"`` or ``"decoder"``.
        rank: rank of LoRA.
        alpha: LoRA's scale is ``alpha / rank``.
        dropout: dropout of LoRA.
        target_modules: LoRA's targets in the encoder; ``None`` for the encoder's default.
        qkv_parts: parts of the encoder's fused layers that LoRA adapts.
        peft_options: options of peft.
        seed: seed of all random values of the build.
        lora_depth: number of the encoder's last layers with LoRA; ``None`` for all, as in older records without it.

    Raises:
        ValueError: when a name is unknown, or options are incompatible.
    """

    encoder: str
    encoder_weights: str
    weights_sha256: str | None
    image_size: tuple[int, int]
    num_classes: int
    decoder: str
    decoder_lora: bool
    refine: bool
    tuning: str
    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...] | None
    qkv_parts: str
    peft_options: Mapping[str, bool | str]
    seed: int
    lora_depth: int | None = None

    def __post_init__(self) -> None:
        """Refuses options that would otherwise be ignored."""
        _check_switch("decoder_lora", self.decoder_lora)
        _check_switch("refine", self.refine)
        if self.tuning not in TUNINGS:
            raise ValueError(f"Expected tuning to be one of {', '.join(TUNINGS)}, found {self.tuning!r}.")
        if self.decoder not in DECODERS:
            raise ValueError(f"Expected decoder to be one of {', '.join(DECODERS)}, found {self.decoder!r}.")
        if self.decoder == "light" and self.decoder_lora:
            raise ValueError("decoder_lora needs decoder 'sam': the light decoder has no attention for LoRA.")
        if self.decoder == "light" and not self.refine:
            raise ValueError("refine: false needs decoder 'sam': the light decoder always uses the image.")
        if self.tuning != "lora" and (self.target_modules, self.qkv_parts, self.lora_depth) != (None, QKV, None):
            raise ValueError(
                f"target_modules, qkv_parts and lora_depth need tuning 'lora', found tuning {self.tuning!r}."
            )
        if self.tuning != "lora" and self.peft_options and not self.decoder_lora:
            raise ValueError(f"peft_options need tuning 'lora' or decoder_lora, found tuning {self.tuning!r}.")


def _check_switch(name: str, value: Any) -> None:
    """Refuses strings: the runner's command line parses `true` and `false` as strings, which are true in Python."""
    if not isinstance(value, bool):
        raise ValueError(
            f"Expected {name} to be True or False, found {value!r}; on a command line write True or False."
        )


def build_teacher(
    *,
    encoder: str,
    encoder_weights: str | Path | None,
    image_size: int | Sequence[int],
    num_classes: int,
    decoder: str = "light",
    decoder_lora: bool = False,
    refine: bool = True,
    tuning: str = "lora",
    rank: int = 4,
    lora_depth: int | None = None,
    alpha: float | None = None,
    dropout: float = 0.0,
    target_modules: Sequence[str] | None = None,
    qkv_parts: str = QKV,
    peft_options: Mapping[str, bool | str] | None = None,
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> VfmSegmenter:
    """Builds a teacher for training: a frozen encoder, new LoRA adapters, a new decoder.

    Args:
        encoder: name in ``encoder_records.ENCODERS``.
        encoder_weights: file, Hugging Face folder or hub id; ``None`` or ``"shipped"`` for the shipped file;
            ``"random"`` for the untrained control.
        image_size: the task's side or ``(H, W)`` in pixels, multiples of 16.
        num_classes: number of classes, background included.
        decoder: ``"light"`` (multi-level, full-resolution stem) or ``"sam"`` (mask decoder, one token per class,
            initialised from SAM's own if the weights contain it).
        decoder_lora: whether LoRA in the attention of the SAM decoder, and its heads, are trained instead of all of it.
        refine: whether the image refines the SAM decoder's masks, which have a quarter of the resolution.
        tuning: what is trained besides the decoder: ``"lora"`` (adapters in the frozen encoder), ``"full"`` (the whole
            encoder) or ``"decoder"`` (nothing).
        rank: rank of LoRA.
        lora_depth: number of the encoder's last layers with LoRA; ``None`` for all.
        alpha: LoRA's scale is ``alpha / rank``; ``2 * rank`` by default.
        dropout: dropout of LoRA.
        target_modules: LoRA's targets in the encoder; its ``default_lora_targets`` by default.
        qkv_parts: parts of the encoder's fused ``qkv`` layers that LoRA adapts: ``"qkv"``, or ``"qv"`` as in SAMed.
        peft_options: options of peft, see :func:`tskd_monai.networks.lora.add_lora`.
        gradient_checkpointing: whether the backward pass recomputes the encoder's layers: less memory, more time.
        seed: seed of a random encoder, the adapters and the decoder.

    Raises:
        ValueError: when a name or number is invalid, options are incompatible, or weights do not fit.
        FileNotFoundError: if weights are missing.
    """
    _check_switch("gradient_checkpointing", gradient_checkpointing)
    path = weights_path(encoder, encoder_weights)
    spec = TeacherSpec(
        encoder=encoder,
        encoder_weights=named_weights(encoder, encoder_weights),
        weights_sha256=None if path is None else file_sha256(path),
        image_size=image_size_hw(image_size),
        num_classes=num_classes,
        decoder=decoder,
        decoder_lora=decoder_lora,
        refine=refine,
        tuning=tuning,
        rank=rank,
        lora_depth=lora_depth,
        alpha=2.0 * rank if alpha is None else float(alpha),
        dropout=dropout,
        target_modules=None if target_modules is None else tuple(target_modules),
        qkv_parts=qkv_parts,
        peft_options=dict(peft_options or {}),
        seed=seed,
    )
    segmenter = _build_tunable(spec, path)
    if gradient_checkpointing:
        segmenter.encoder.checkpoint_gradients(True)
    return segmenter


def _build_tunable(spec: TeacherSpec, path: Path | None) -> VfmSegmenter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        segmenter = build_frozen(spec, path)
        if isinstance(segmenter.decoder, SamMaskDecoder) and path is not None:
            _start_from_sam(segmenter.decoder, path)
        if spec.tuning == "lora":
            add_lora(
                segmenter.encoder,
                rank=spec.rank,
                alpha=spec.alpha,
                dropout=spec.dropout,
                target_modules=spec.target_modules,
                qkv_parts=spec.qkv_parts,
                peft_options=spec.peft_options,
                depth=spec.lora_depth,
            )
        elif spec.tuning == "full":
            segmenter.encoder.requires_grad_(True)
        if isinstance(segmenter.decoder, SamMaskDecoder) and spec.decoder_lora:
            _add_decoder_lora(segmenter.decoder, spec)
    return segmenter.train()


def _add_decoder_lora(decoder: SamMaskDecoder, spec: TeacherSpec) -> None:
    add_lora(decoder, rank=spec.rank, alpha=spec.alpha, dropout=spec.dropout, peft_options=spec.peft_options)
    decoder.train_heads()


def build_frozen(spec: TeacherSpec, path: Path | None) -> VfmSegmenter:
    """Builds the segmenter without LoRA; the encoder is frozen, the decoder untrained.

    Args:
        spec: values that it is built from.
        path: path of the encoder's weights; ``None`` for random ones.

    Raises:
        ValueError: when a name or number is invalid, or weights do not fit.
    """
    encoder = build_encoder(spec.encoder, RANDOM if path is None else path, spec.image_size, seed=spec.seed)
    encoder.requires_grad_(False)
    return VfmSegmenter(encoder, _build_decoder(spec, encoder), spec)


def _build_decoder(spec: TeacherSpec, encoder: ImageEncoder) -> LightDecoder | SamMaskDecoder:
    if spec.decoder == "light":
        return LightDecoder(
            encoder.feature_channels,
            encoder.embed_dim,
            spec.num_classes,
            feature_strides=encoder.feature_strides,
            embed_stride=encoder.embed_stride,
        )
    return SamMaskDecoder(encoder.embed_dim, spec.num_classes, refine=spec.refine)


def _start_from_sam(decoder: SamMaskDecoder, path: Path) -> None:
    state = read_weights(path)
    if has_decoder_entries(state):
        initialise_from_sam(decoder, state, path)
        logger.info("The mask decoder starts from the one in %s.", path.name)
    else:
        logger.info("%s holds no mask decoder of SAM's shape; the decoder starts from random weights.", path.name)
