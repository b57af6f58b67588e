"""LoRA through ``peft``, in an encoder's backbone and in the attention of SAM's mask decoder.

Low-rank adaptation (Hu et al., arXiv 2106.09685): ``W' = W + (alpha / r) B A`` with ``A`` random and ``B = 0`` at the
start, so that a fresh adapter changes nothing. ``W`` stays frozen. In a fused ``qkv`` layer a subset of the parts
can be adapted, as SAMed adapts query and value (Zhang and Liu, arXiv 2304.13785): the other rows of ``B`` stay zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tskd_monai.networks.encoders import ImageEncoder
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder

Adaptable = ImageEncoder | SamMaskDecoder
AdaptableT = TypeVar("AdaptableT", bound=Adaptable)

QKV = "qkv"
PEFT_OPTIONS: Mapping[str, tuple[bool | str, ...]] = {
    "use_rslora": (False, True),
    "use_dora": (False, True),
    "init_lora_weights": (True, "gaussian"),
}


def add_lora(
    network: AdaptableT,
    *,
    rank: int = 4,
    alpha: float | None = None,
    dropout: float = 0.0,
    target_modules: Sequence[str] | None = None,
    qkv_parts: str = QKV,
    peft_options: Mapping[str, bool | str] | None = None,
    depth: int | None = None,
) -> AdaptableT:
    """Freezes an encoder or a mask decoder and injects LoRA into it, in place.

    Args:
        network: an encoder or a mask decoder without LoRA.
        rank: rank r of the two factors.
        alpha: scale; the update is multiplied by ``alpha / rank``; ``2 * rank`` by default.
        dropout: dropout on the input of the low-rank branch, in [0, 1).
        target_modules: suffixes of the names of linear layers, such as ``attn.qkv``; by default the network's
            ``default_lora_targets`` (attention and MLP of every encoder layer, attention of the decoder).
        qkv_parts: which parts of fused ``qkv`` layers are adapted, ``"qkv"`` or for example ``"qv"``.
        peft_options: options of peft: ``use_rslora``, ``use_dora``, ``init_lora_weights`` (``True`` or
            ``"gaussian"``).
        depth: number of the encoder's last layers that are adapted; ``None`` for all layers.

    Returns:
        The same network; only its LoRA factors require a gradient.

    Raises:
        ValueError: if the rank is not positive, the network has LoRA already, a target matches no linear layer or also
            other layers, the depth is out of range, or an option is unknown or incompatible with another.
    """
    if rank < 1:
        raise ValueError(f"Expected a LoRA rank of at least 1, found {rank}.")
    if has_lora(network):
        raise ValueError("Expected a network without LoRA, found an adapter in it; merge it or build a new one.")
    slot = lora_slot(network)
    targets = list(network.default_lora_targets if target_modules is None else target_modules)
    check_targets(network.get_submodule(slot), targets)
    options = checked_peft_options(peft_options or {})
    check_qkv_parts(qkv_parts, targets, options)
    if depth is not None:
        targets = names_in_last_layers(network, targets, depth)
    network.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]  # peft takes floats as well
        lora_dropout=dropout,
        target_modules=targets,
        bias="none",
        **options,
    )
    put_adapted(network, get_peft_model(network.get_submodule(slot), config), qkv_parts)
    return network


def lora_slot(network: Adaptable) -> str:
    """Returns the name of the submodule that LoRA is injected into."""
    return "decoder.transformer" if isinstance(network, SamMaskDecoder) else "backbone"


def has_lora(network: nn.Module | ImageEncoder) -> bool:
    """Returns whether the network has an adapter."""
    return any(isinstance(module, PeftModel) for module in network.modules())


def names_in_last_layers(network: Adaptable, targets: Sequence[str], depth: int) -> list[str]:
    """Returns the names of the targets in an encoder's last layers, as a list that plain peft reads.

    Args:
        network: an encoder.
        targets: suffixes of the names of linear layers.
        depth: number of layers, counted from the last.

    Raises:
        ValueError: if the network has no such layers, or none of the targets is in them.
    """
    layers = () if isinstance(network, SamMaskDecoder) else network.layers
    if type(depth) is not int or not 1 <= depth <= len(layers):
        raise ValueError(f"Expected --lora_depth from 1 to {len(layers)}, the encoder's layers, found {depth!r}.")
    inside = {id(module) for layer in list(layers)[-depth:] for module in layer.modules()}
    named = network.get_submodule(lora_slot(network)).named_modules()
    names = [name for name, module in named if id(module) in inside and any(is_target(name, end) for end in targets)]
    if not names:
        raise ValueError(
            f"None of the LoRA targets {', '.join(targets)} is in the last {depth} of {len(layers)} layers; "
            "choose a larger --lora_depth or other targets."
        )
    return names


def check_targets(module: nn.Module, targets: Sequence[str]) -> None:
    """Checks that every target matches linear layers only; peft only checks that one target matches.

    Raises:
        ValueError: if one does not; names the target and the available layers.
    """
    named = [(name, layer) for name, layer in module.named_modules() if name]
    available = sorted({_ending(name) for name, layer in named if isinstance(layer, nn.Linear)})
    if not targets:
        raise ValueError(f"Expected at least one LoRA target, found none; choose from {', '.join(available)}.")
    for target in targets:
        matched = [(name, layer) for name, layer in named if is_target(name, target)]
        if not matched:
            raise ValueError(f"LoRA target {target!r} matches no layer; choose from {', '.join(available)}.")
        for name, layer in matched:
            if not isinstance(layer, nn.Linear):
                raise ValueError(
                    f"LoRA target {target!r} also matches {name} ({type(layer).__name__}, not a linear layer); "
                    f"choose from {', '.join(available)}."
                )


def is_target(name: str, target: str) -> bool:
    """Returns whether peft matches a layer of this name with the target."""
    return name == target or name.endswith(f".{target}")


def _ending(name: str) -> str:
    """Returns the part of a name after the last number: ``layers.3.attn.qkv`` gives ``attn.qkv``."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :]) if numbers else name


def checked_peft_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns checked options of peft.

    PiSSA, OLoRA and similar initialisations move a part of the base weights into the adapter, and ``False`` starts
    from a random ``B``: the base would change, or a fresh adapter would change the output.

    Raises:
        ValueError: if an option or value is not in :data:`PEFT_OPTIONS`.
    """
    for name, value in options.items():
        if name not in PEFT_OPTIONS:
            raise ValueError(f"Expected peft options out of {', '.join(PEFT_OPTIONS)}, found {name!r}.")
        if not any(type(value) is type(allowed) and value == allowed for allowed in PEFT_OPTIONS[name]):
            reason = "; others change the base weights or start from an adapter that is no exact no-op"
            raise ValueError(
                f"Expected the peft option {name} to be one of {', '.join(map(repr, PEFT_OPTIONS[name]))}, found "
                f"{value!r}{reason if name == 'init_lora_weights' else ''}."
            )
    return dict(options)


def check_qkv_parts(qkv_parts: str, targets: Sequence[str], options: Mapping[str, Any]) -> None:
    """Checks that the parts exist and that a fused layer is among the targets.

    Raises:
        ValueError: if not, or with DoRA, whose magnitudes would rescale the other parts.
    """
    if not qkv_parts or sorted(qkv_parts) != [part for part in "kqv" if part in qkv_parts]:
        raise ValueError(f"Expected qkv_parts as letters of 'qkv', such as 'qv', found {qkv_parts!r}.")
    if set(qkv_parts) == set(QKV):
        return
    if not any(is_target(target, QKV) for target in targets):
        raise ValueError(
            f"qkv_parts {qkv_parts!r} chooses rows of fused qkv layers; expected the LoRA target 'attn.qkv', found "
            f"{', '.join(targets)}."
        )
    if options.get("use_dora"):
        raise ValueError(
            f"qkv_parts {qkv_parts!r} does not go with use_dora, whose magnitudes rescale every row; leave one out."
        )


def put_adapted(network: Adaptable, adapted: PeftModel, qkv_parts: str) -> None:
    """Puts the module with LoRA into the network and disables the parts of fused layers that are not adapted.

    The output of ``B`` is zeroed there, so that its rows get no gradient and stay zero (also under weight decay)
    wherever the network is copied or moved. peft adds modules in training mode; here they get the network's mode.
    """
    adapted.train(network.training)
    network.set_submodule(lora_slot(network), adapted)
    if set(qkv_parts) == set(QKV):
        return
    for name, layer in adapted.named_modules():
        if isinstance(layer, LoraLayer) and is_target(name, QKV):
            groups = qkv_groups(adapted, name)
            for factor in layer.lora_B.values():
                factor.register_forward_hook(partial(_zero_other_parts, qkv_parts, groups))


def qkv_groups(module: nn.Module, name: str) -> int:
    """Returns the number of groups of query, key and value in the rows of a fused layer.

    They are ``q k v`` in most networks, one group, and ``q1 k1 v1 q2 …`` where the attention states ``qkv_groups``.

    Args:
        module: module that contains the layer.
        name: name of the fused layer in it.
    """
    return getattr(module.get_submodule(name.rpartition(".")[0]), "qkv_groups", 1)


def _zero_other_parts(qkv_parts: str, groups: int, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    chunks = zip(QKV, output.unflatten(-1, (groups, -1)).chunk(3, dim=-1), strict=True)
    kept = [chunk if part in qkv_parts else torch.zeros_like(chunk) for part, chunk in chunks]
    return torch.cat(kept, dim=-1).flatten(-2)


def adapted_module(network: Adaptable) -> PeftModel:
    """Returns the module with LoRA.

    Raises:
        ValueError: if the network has no LoRA.
    """
    module = network.get_submodule(lora_slot(network))
    if not isinstance(module, PeftModel):
        raise ValueError("Expected a network with LoRA, found a plain one; call add_lora or load_adapter first.")
    return module


def merge_lora(network: AdaptableT) -> AdaptableT:
    """Adds ``(alpha / r) B A`` to the base weights and removes the adapter, in place.

    Returns:
        The same network without LoRA, as fast as before it was added.

    Raises:
        ValueError: if the network has no LoRA.
    """
    network.set_submodule(lora_slot(network), adapted_module(network).merge_and_unload())
    return network


def base_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Returns a module's state without LoRA, under the names it has without LoRA."""
    return {
        name.replace("base_model.model.", "").replace(".base_layer.", "."): value
        for name, value in module.state_dict().items()
        if ".lora_" not in name
    }


def base_encoder_sha256(encoder: ImageEncoder) -> str:
    """Returns the sha256 of the base weights, the same with and without LoRA: evidence that they never change."""
    digest = hashlib.sha256()
    for name, value in sorted(base_state_dict(encoder.backbone).items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
