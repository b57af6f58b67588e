"""LoRA adapters on disk, in ``peft``'s own folder format: plain ``peft`` reads them without this package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from tskd_monai.networks.adapter_config import read_adapter_config
from tskd_monai.networks.lora import (
    PEFT_OPTIONS,
    QKV,
    Adaptable,
    AdaptableT,
    adapted_module,
    check_qkv_parts,
    check_targets,
    checked_peft_options,
    has_lora,
    is_target,
    lora_slot,
    put_adapted,
)
from tskd_monai.networks.weights_file import read_weights

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def save_adapter(network: Adaptable, folder: str | Path) -> None:
    """Writes the adapter: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Both are written to a temporary folder first and moved, so that no half-written file is ever in place.

    Args:
        network: an encoder or a mask decoder with LoRA.
        folder: created if missing.

    Raises:
        ValueError: if the network has no LoRA.
    """
    adapted = adapted_module(network)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".writing"
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed here
    try:
        adapted.save_pretrained(str(temporary), save_embedding_layers=False)
        _sort_targets(temporary / ADAPTER_FILES[1])
        for name in ADAPTER_FILES:
            (temporary / name).replace(folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sort_targets(path: Path) -> None:
    """Puts the target modules into order: peft writes a set, whose order changes with every start of Python."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def load_adapter(
    network: AdaptableT, folder: str | Path, *, trainable: bool = False, qkv_parts: str = QKV
) -> AdaptableT:
    """Injects a saved adapter into a network without LoRA, in place.

    Args:
        network: an encoder or a mask decoder of the architecture the adapter was trained on.
        folder: written by :func:`save_adapter` or by peft.
        trainable: whether the LoRA factors require a gradient; the base never does.
        qkv_parts: which parts of fused ``qkv`` layers the adapter was trained for.

    Returns:
        The same network.

    Raises:
        FileNotFoundError: if a file of the adapter is missing.
        ValueError: if there is LoRA already, the adapter does not fit exactly, or a file of it is damaged.
    """
    folder = Path(folder)
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"Expected {name} of a LoRA adapter in {folder}, found none.")
    if has_lora(network):
        raise ValueError("Expected a network without LoRA, found an adapter in it; build a new one.")
    config = read_adapter_config(folder / ADAPTER_FILES[1])
    module = network.get_submodule(lora_slot(network))
    try:
        _check_adapter(module, config, folder, qkv_parts)
    except ValueError as error:
        raise ValueError(f"The LoRA adapter in {folder} does not fit this network: {error}") from error
    network.requires_grad_(False)
    adapted = PeftModel.from_pretrained(module, str(folder), is_trainable=trainable, config=config)
    put_adapted(network, adapted, qkv_parts)
    return network


def _check_adapter(module: nn.Module, config: LoraConfig, folder: Path, qkv_parts: str) -> None:
    targets = sorted(config.target_modules or ())
    check_targets(module, targets)
    options = checked_peft_options({name: getattr(config, name) for name in PEFT_OPTIONS})
    check_qkv_parts(qkv_parts, targets, options)
    stored = read_weights(folder / ADAPTER_FILES[0])
    _check_entries(stored, _expected_entries(module, config))
    _check_zero_rows(stored, qkv_parts)


def _check_entries(stored: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    """Checks names and shapes against what peft would inject; peft itself only warns about missing ones."""
    found = {name: tuple(value.shape) for name, value in stored.items()}
    if found != expected:
        different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        name = different[0]
        raise ValueError(
            f"{len(different)} entries differ, the first is "
            f"{name} (expected {expected.get(name, 'absent')}, found {found.get(name, 'absent')})."
        )


def _expected_entries(module: nn.Module, config: LoraConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and any(is_target(name, target) for target in config.target_modules or ()):
            prefix = f"base_model.model.{name}"
            shapes[f"{prefix}.lora_A.weight"] = (config.r, layer.in_features)
            shapes[f"{prefix}.lora_B.weight"] = (layer.out_features, config.r)
            if config.use_dora:
                shapes[f"{prefix}.lora_magnitude_vector"] = (layer.out_features,)
    return shapes


def _check_zero_rows(stored: dict[str, Tensor], qkv_parts: str) -> None:
    """Checks that an adapter for some parts of the fused layers leaves the others alone."""
    for name, value in stored.items():
        if name.endswith(f".{QKV}.lora_B.weight"):
            for part, rows in zip(QKV, value.chunk(3), strict=True):
                if part not in qkv_parts and rows.any():
                    raise ValueError(
                        f"it changes {part} in {name}, expected {', '.join(qkv_parts)} "
                        "alone; load it with the qkv_parts it was trained with."
                    )
