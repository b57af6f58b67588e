"""``adapter_config.json``: the few settings of a LoRA adapter that we use, and nothing else that peft would obey.

peft does what the file says, up to importing the module that it names (``megatron_core``). An adapter may come from
anywhere, so peft gets a configuration built here, and a file that sets anything beyond it is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import LoraConfig

from tskd_monai.networks.lora import PEFT_OPTIONS, checked_peft_options

SETTINGS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", *PEFT_OPTIONS)
PROVENANCE = (
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type",
)  # fmt: skip
"""Fields that say where an adapter comes from; they change nothing."""

MAX_ALPHA = 1e6
"""Of a scale that is about as large as the rank."""


def read_adapter_config(path: Path) -> LoraConfig:
    """Returns the configuration of a LoRA adapter.

    Args:
        path: of ``adapter_config.json``, written by peft.

    Raises:
        ValueError: if it is no JSON object, no LoRA, or sets something that is not ours to set; names file and field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {path}, found a damaged file ({error}); copy the adapter again.") from error
    if not isinstance(content, dict) or content.get("peft_type") != "LORA":
        raise ValueError(f"Expected the configuration of a LoRA adapter in {path}, found another; copy it again.")
    defaults = LoraConfig().to_dict()
    for name, value in content.items():
        if name not in (*SETTINGS, *PROVENANCE) and value != defaults.get(name) and value not in (None, False, [], {}):
            raise ValueError(f"Expected plain LoRA in {path}, found {name} set to {value!r:.80}; train without it.")
    try:
        return _config(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error} Copy the adapter again.") from error


def _config(content: dict[str, Any]) -> LoraConfig:
    rank, alpha, dropout = content.get("r"), content.get("lora_alpha"), content.get("lora_dropout", 0.0)
    targets = content.get("target_modules")
    if type(rank) is not int or rank < 1:
        raise ValueError(f"Expected r to be a rank of at least 1, found {rank!r:.80}.")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not 0 < alpha < MAX_ALPHA:
        raise ValueError(f"Expected lora_alpha to be a positive number, found {alpha!r:.80}.")
    if not isinstance(dropout, (int, float)) or isinstance(dropout, bool) or not 0 <= dropout < 1:
        raise ValueError(f"Expected lora_dropout from 0 to below 1, found {dropout!r:.80}.")
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) and name for name in targets):
        raise ValueError(f"Expected target_modules to be names of layers, found {targets!r:.80}.")
    if content.get("bias", "none") != "none":
        raise ValueError(f"Expected bias to be none, found {content['bias']!r:.80}.")
    options = checked_peft_options({name: content[name] for name in PEFT_OPTIONS if name in content})
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft takes floats as well
        lora_dropout=dropout,
        target_modules=targets,
        bias="none",
        inference_mode=True,
        **options,
    )
