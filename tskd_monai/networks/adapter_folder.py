"""LoRA adapters on disk, in ``peft``'s own folder format: plain ``peft`` reads them without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from tskd_monai.files.json_files import is_a, read_json, shown, write_json
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
    qkv_groups,
)
from tskd_monai.networks.weights_file import read_weights, write_weights

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
FACTOR_B = ".lora_B.weight"
ADAPTER_FILES = (WEIGHTS_FILE, CONFIG_FILE)
SETTINGS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", *PEFT_OPTIONS)
PROVENANCE = (
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type",
)  # fmt: skip
"""Fields that record the origin of an adapter; they do not affect it."""
MAX_ALPHA = 1e6
"""Suffix of the advice about a scale, which is usually about as large as the rank."""


def save_adapter(network: Adaptable, folder: str | Path) -> None:
    """Writes the adapter: ``adapter_config.json`` and ``adapter_model.safetensors``, each atomically.

    Args:
        network: an encoder or a mask decoder with LoRA.
        folder: created if missing.

    Raises:
        ValueError: if the network has no LoRA.
    """
    adapted = adapted_module(network)
    config = adapted.peft_config[adapted.active_adapter].to_dict()
    # peft holds the targets as a set, whose order changes with every start of Python.
    config |= {"inference_mode": True, "target_modules": sorted(config["target_modules"])}
    write_weights(Path(folder) / WEIGHTS_FILE, get_peft_model_state_dict(adapted, save_embedding_layers=False))
    write_json(Path(folder) / CONFIG_FILE, dict(sorted(config.items())))


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
    config = read_adapter_config(folder / CONFIG_FILE)
    module = network.get_submodule(lora_slot(network))
    try:
        _check_adapter(module, config, folder, qkv_parts)
    except ValueError as error:
        raise ValueError(f"The LoRA adapter in {folder} does not fit this network: {error}") from error
    network.requires_grad_(False)
    adapted = PeftModel.from_pretrained(module, str(folder), is_trainable=trainable, config=config)
    put_adapted(network, adapted, qkv_parts)
    return network


def read_adapter_config(path: Path) -> LoraConfig:
    """Returns the configuration of a LoRA adapter.

    Args:
        path: path of ``adapter_config.json``, written by peft.

    Raises:
        ValueError: if it is no JSON object, no LoRA, or sets an option that is not supported; names file and field.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; copy the adapter again.") from error
    if not isinstance(content, dict) or content.get("peft_type") != "LORA":
        raise ValueError(f"Expected the configuration of a LoRA adapter in {path}, found another; copy it again.")
    defaults = LoraConfig().to_dict()
    for name, value in content.items():
        if name not in (*SETTINGS, *PROVENANCE) and value != defaults.get(name) and value not in (None, False, [], {}):
            raise ValueError(f"Expected plain LoRA in {path}, found {name} set to {shown(value)}; train without it.")
    try:
        return _config(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error} Copy the adapter again.") from error


def _config(content: dict[str, Any]) -> LoraConfig:
    rank, targets = content.get("r"), content.get("target_modules")
    alpha: Any = content.get("lora_alpha")
    dropout: Any = content.get("lora_dropout", 0.0)
    if type(rank) is not int or rank < 1:
        raise ValueError(f"Expected r to be a rank of at least 1, found {shown(rank)}.")
    if not is_a(alpha, float) or not 0 < alpha < MAX_ALPHA:
        raise ValueError(f"Expected lora_alpha to be a positive number, found {shown(alpha)}.")
    if not is_a(dropout, float) or not 0 <= dropout < 1:
        raise ValueError(f"Expected lora_dropout from 0 to below 1, found {shown(dropout)}.")
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) and name for name in targets):
        raise ValueError(f"Expected target_modules to be names of layers, found {shown(targets)}.")
    if content.get("bias", "none") != "none":
        raise ValueError(f"Expected bias to be none, found {shown(content['bias'])}.")
    options = checked_peft_options({name: content[name] for name in PEFT_OPTIONS if name in content})
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        bias="none",
        inference_mode=True,
        **options,
    )


def _check_adapter(module: nn.Module, config: LoraConfig, folder: Path, qkv_parts: str) -> None:
    targets = sorted(config.target_modules or ())
    check_targets(module, targets)
    options = checked_peft_options({name: getattr(config, name) for name in PEFT_OPTIONS})
    check_qkv_parts(qkv_parts, targets, options)
    stored = read_weights(folder / WEIGHTS_FILE)
    _check_entries(stored, _expected_entries(module, config))
    _check_zero_rows(module, stored, qkv_parts)


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
            prefix = f"{PEFT_PREFIX}{name}"
            shapes[f"{prefix}.lora_A.weight"] = (config.r, layer.in_features)
            shapes[f"{prefix}.lora_B.weight"] = (layer.out_features, config.r)
            if config.use_dora:
                shapes[f"{prefix}.lora_magnitude_vector"] = (layer.out_features,)
    return shapes


def _check_zero_rows(module: nn.Module, stored: dict[str, Tensor], qkv_parts: str) -> None:
    """Checks that an adapter for some parts of the fused layers leaves the others unchanged."""
    for name, value in stored.items():
        if name.endswith(f".{QKV}{FACTOR_B}"):
            groups = qkv_groups(module, name.removeprefix(PEFT_PREFIX).removesuffix(FACTOR_B))
            for part, rows in zip(QKV, value.unflatten(0, (groups, -1)).chunk(3, dim=1), strict=True):
                if part not in qkv_parts and rows.any():
                    raise ValueError(
                        f"it changes {part} in {name}, expected {', '.join(qkv_parts)} "
                        "only; load it with the qkv_parts it was trained with."
                    )
