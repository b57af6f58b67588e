"""LoRA on an encoder's backbone, through ``peft`` and in ``peft``'s own folder format.

Low-rank adaptation (Hu et al., arXiv 2106.09685): ``W' = W + (alpha / r) B A`` with ``A`` random and ``B = 0`` at the
start, so that a fresh adapter changes nothing. ``W`` stays frozen.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from tskd_monai.networks.plain_vit import PlainVitEncoder
from tskd_monai.networks.sam_encoder import SamEncoder

EncoderT = TypeVar("EncoderT", bound=SamEncoder | PlainVitEncoder)

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def add_lora(
    encoder: EncoderT,
    *,
    rank: int = 4,
    alpha: float | None = None,
    dropout: float = 0.0,
    target_modules: Sequence[str] | None = None,
) -> EncoderT:
    """Freezes an encoder and injects LoRA into its backbone, in place.

    Args:
        encoder: an encoder without LoRA.
        rank: r of the two factors.
        alpha: the update is scaled by ``alpha / rank``; ``2 * rank`` unless given.
        dropout: on the input of the low-rank branch, in [0, 1).
        target_modules: endings of the names of linear layers, such as ``attn.qkv``; the encoder's
            ``default_lora_targets`` (attention and MLP of every layer) unless given.

    Returns:
        The same encoder; only its LoRA factors require a gradient.

    Raises:
        ValueError: if the rank is not positive, there is LoRA already, or a target matches no linear layer, or
            something else as well.
    """
    if rank < 1:
        raise ValueError(f"Expected a LoRA rank of at least 1, found {rank}.")
    if has_lora(encoder):
        raise ValueError("Expected an encoder without LoRA, found an adapter in it; merge it or build a new encoder.")
    targets = list(encoder.default_lora_targets if target_modules is None else target_modules)
    _check_targets(encoder.backbone, targets)
    encoder.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]  # peft takes floats as well
        lora_dropout=dropout,
        target_modules=targets,
        bias="none",
    )
    encoder.backbone = get_peft_model(encoder.backbone, config)
    return encoder


def has_lora(encoder: SamEncoder | PlainVitEncoder) -> bool:
    """Returns whether the encoder's backbone carries an adapter."""
    return isinstance(encoder.backbone, PeftModel)


def _check_targets(backbone: nn.Module, targets: Sequence[str]) -> None:
    """Checks that every target names linear layers and nothing else; peft itself only notices if none matches."""
    named = [(name, module) for name, module in backbone.named_modules() if name]
    available = sorted({_ending(name) for name, module in named if isinstance(module, nn.Linear)})
    if not targets:
        raise ValueError(f"Expected at least one LoRA target, found none; choose from {', '.join(available)}.")
    for target in targets:
        matched = [(name, module) for name, module in named if name == target or name.endswith(f".{target}")]
        if not matched:
            raise ValueError(f"LoRA target {target!r} matches no layer; choose from {', '.join(available)}.")
        for name, module in matched:
            if not isinstance(module, nn.Linear):
                raise ValueError(
                    f"LoRA target {target!r} also matches {name} ({type(module).__name__}, not a linear layer); "
                    f"choose from {', '.join(available)}."
                )


def _ending(name: str) -> str:
    """Returns what follows the last number: ``layers.3.attn.qkv`` gives ``attn.qkv``."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :]) if numbers else name


def save_adapter(encoder: SamEncoder | PlainVitEncoder, folder: str | Path) -> None:
    """Writes the adapter in peft's format: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Both are written to a temporary folder first and moved, so that no half-written file is ever in place.

    Args:
        encoder: with LoRA.
        folder: created if missing.

    Raises:
        ValueError: if the encoder has no LoRA.
    """
    backbone = _adapted_backbone(encoder)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        backbone.save_pretrained(temporary, save_embedding_layers=False)
        for name in ADAPTER_FILES:
            (Path(temporary) / name).replace(folder / name)


def load_adapter(encoder: EncoderT, folder: str | Path, *, trainable: bool = False) -> EncoderT:
    """Injects a saved adapter into an encoder without LoRA, in place.

    Args:
        encoder: of the architecture the adapter was trained on.
        folder: written by :func:`save_adapter` or by peft.
        trainable: whether the LoRA factors require a gradient; the base never does.

    Returns:
        The same encoder.

    Raises:
        FileNotFoundError: if a file of the adapter is missing.
        ValueError: if there is LoRA already, or the adapter does not fit exactly.
    """
    folder = Path(folder)
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"Expected {name} of a LoRA adapter in {folder}, found none.")
    if has_lora(encoder):
        raise ValueError("Expected an encoder without LoRA, found an adapter in it; build a new encoder.")
    config = LoraConfig.from_pretrained(str(folder))
    _check_targets(encoder.backbone, sorted(config.target_modules or ()))
    _check_adapter_entries(encoder, config, folder)
    encoder.requires_grad_(False)
    encoder.backbone = PeftModel.from_pretrained(encoder.backbone, str(folder), is_trainable=trainable)
    return encoder


def _check_adapter_entries(encoder: SamEncoder | PlainVitEncoder, config: LoraConfig, folder: Path) -> None:
    """Checks names and shapes against what peft would inject; peft itself only warns about missing ones."""
    stored = {name: tuple(value.shape) for name, value in load_file(folder / ADAPTER_FILES[0]).items()}
    expected = _expected_entries(encoder.backbone, config)
    if stored != expected:
        different = sorted(name for name in stored.keys() | expected.keys() if stored.get(name) != expected.get(name))
        name = different[0]
        raise ValueError(
            f"The LoRA adapter in {folder} does not fit this encoder: {len(different)} entries differ, the first is "
            f"{name} (expected {expected.get(name, 'absent')}, found {stored.get(name, 'absent')})."
        )


def _expected_entries(backbone: nn.Module, config: LoraConfig) -> dict[str, tuple[int, ...]]:
    targets = sorted(config.target_modules or ())
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear) and any(name == t or name.endswith(f".{t}") for t in targets):
            shapes[f"base_model.model.{name}.lora_A.weight"] = (config.r, module.in_features)
            shapes[f"base_model.model.{name}.lora_B.weight"] = (module.out_features, config.r)
    return shapes


def merge_lora(encoder: EncoderT) -> EncoderT:
    """Adds ``(alpha / r) B A`` to the base weights and removes the adapter, in place.

    Returns:
        The same encoder, plain again: as fast as without LoRA.

    Raises:
        ValueError: if the encoder has no LoRA.
    """
    encoder.backbone = _adapted_backbone(encoder).merge_and_unload()
    return encoder


def _adapted_backbone(encoder: SamEncoder | PlainVitEncoder) -> PeftModel:
    if not isinstance(encoder.backbone, PeftModel):
        raise ValueError("Expected an encoder with LoRA, found a plain one; call add_lora or load_adapter first.")
    return encoder.backbone


def base_encoder_sha256(encoder: SamEncoder | PlainVitEncoder) -> str:
    """Returns the sha256 of the base weights, the same with and without LoRA: proof that they never change."""
    digest = hashlib.sha256()
    entries = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): value
        for name, value in encoder.backbone.state_dict().items()
        if ".lora_" not in name
    }
    for name in sorted(entries):
        digest.update(name.encode())
        digest.update(entries[name].detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def adapter_parameters(encoder: SamEncoder | PlainVitEncoder) -> int:
    """Returns the number of LoRA parameters.

    Raises:
        ValueError: if the encoder has no LoRA.
    """
    return sum(value.numel() for value in get_peft_model_state_dict(_adapted_backbone(encoder)).values())
