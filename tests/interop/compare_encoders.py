"""Compares the encoders of DINOv2, DINOv3 and SAM 2 with their authors' own code, on random weights.

    python tests/interop/compare_encoders.py CLONES

CLONES holds clones of facebookresearch/dinov2 (b8931f7), facebookresearch/dinov3 (6876159) and facebookresearch/sam2
(2b90b9f), which are imported without their other requirements. Small networks, every parameter drawn, are loaded under
the authors' names; the largest difference of the outputs is printed, and must be below 1e-5. The names and shapes of
every published size are compared on the meta device.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_monai.networks.dino_encoder import Dinov2Architecture, Dinov3Architecture
from tskd_monai.networks.encoder_records import ENCODERS, IMAGENET_MEAN, IMAGENET_STD
from tskd_monai.networks.encoders import EncoderArchitecture, ImageEncoder
from tskd_monai.networks.hiera_encoder import HieraArchitecture
from tskd_monai.networks.mri_core import MriCoreArchitecture
from tskd_monai.networks.weights_file import load_strictly

TOLERANCE = 1e-5
Named = Mapping[str, Tensor]


def import_clone(clones: Path, package: str, module: str) -> Any:
    """Imports one module of a clone without running the package's own `__init__`."""
    if package not in sys.modules:
        root = ModuleType(package)
        root.__path__ = [str(clones / package / package)]
        sys.modules[package] = root
    return importlib.import_module(f"{package}.{module}")


def dinov2(clones: Path, sizes: Dinov2Architecture | MriCoreArchitecture, image_size: int, **options: Any) -> nn.Module:
    layers, models = (import_clone(clones, "dinov2", name) for name in ("layers", "models.vision_transformer"))
    return models.DinoVisionTransformer(
        img_size=image_size,
        embed_dim=sizes.hidden_size,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        block_fn=partial(layers.NestedTensorBlock, attn_class=layers.MemEffAttention),
        **options,
    )


def dinov3(clones: Path, sizes: Dinov3Architecture) -> nn.Module:
    models = import_clone(clones, "dinov3", "models.vision_transformer")
    network = models.DinoVisionTransformer(
        embed_dim=sizes.hidden_size,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        # The authors' SwiGLU has two thirds of the width that its ratio states.
        ffn_ratio=sizes.mlp_size / sizes.hidden_size * (1.5 if sizes.gated else 1),
        ffn_layer="swiglu" if sizes.gated else "mlp",
        n_storage_tokens=sizes.num_registers,
        layerscale_init=1.0,
        norm_layer="layernormbf16",
        mask_k_bias=True,
        pos_embed_rope_base=100,
        pos_embed_rope_normalize_coords="separate",
        pos_embed_rope_dtype="fp32",
    )
    network.init_weights()
    return network


def hiera(clones: Path, sizes: HieraArchitecture) -> nn.Module:
    stubs = {name: ModuleType(name) for name in ("iopath", "iopath.common", "iopath.common.file_io")}
    stubs["iopath.common.file_io"].g_pathmgr = None  # type: ignore[attr-defined]
    for name, stub in stubs.items():
        sys.modules.setdefault(name, stub)
    trunks, necks, positions = (
        import_clone(clones, "sam2", f"modeling.{name}")
        for name in ("backbones.hieradet", "backbones.image_encoder", "position_encoding")
    )
    trunk = trunks.Hiera(
        embed_dim=sizes.hidden_size,
        num_heads=sizes.num_heads,
        stages=sizes.depths,
        global_att_blocks=sizes.global_layers,
        window_spec=sizes.window_sizes,
        window_pos_embed_bkg_spatial_size=(sizes.position_grid,) * 2,
    )
    sine = positions.PositionEmbeddingSine(sizes.embed_dim, normalize=True, warmup_cache=False)
    neck = necks.FpnNeck(
        sine, sizes.embed_dim, trunk.channel_list, fpn_top_down_levels=[2, 3], fpn_interp_model="nearest"
    )
    return necks.ImageEncoder(trunk, neck, scalp=1)


@torch.no_grad()
def drawn(network: nn.Module) -> nn.Module:
    """Moves every parameter, so that no two layers can be confused."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def loaded(architecture: EncoderArchitecture, state: Named, image_size: int) -> ImageEncoder:
    encoder = architecture.build(image_size, IMAGENET_MEAN, IMAGENET_STD)
    load_strictly(encoder.backbone, architecture.backbone_entries(state, "the clone"), "the clone")
    return encoder.eval()


def patch_tokens(network: Any, pixels: Tensor) -> Tensor:
    return network.forward_features(pixels)["x_norm_patchtokens"]


@torch.no_grad()
def dino_difference(encoder: ImageEncoder, network: nn.Module, size: tuple[int, int], patch_size: int) -> float:
    encoder.resize_to(size)
    images = torch.rand(2, 3, *size)
    pixels = encoder.normalise(images)
    if patch_size != 16:
        grid = tuple(side // 16 * patch_size for side in size)
        pixels = F.interpolate(pixels, size=grid, mode="bilinear", antialias=True)
    own = encoder(images).image_embeddings.flatten(2).transpose(1, 2)
    return (own - patch_tokens(network, pixels)).abs().max().item()


def compare_dinov2(clones: Path) -> dict[str, float]:
    found = {}
    for registers in (0, 4):
        sizes = Dinov2Architecture(48, 4, 3, registers)
        options = {"patch_size": 14, "init_values": 1.0, "block_chunks": 0, "num_register_tokens": registers}
        network = drawn(dinov2(clones, sizes, 98, **options, interpolate_antialias=True, interpolate_offset=0.0))
        encoder = loaded(sizes, network.state_dict(), 98)
        # Without registers the authors add 0.1 to the grid before they interpolate: compared at the native size only.
        for size in [(112, 112), (64, 96)] if registers else [(112, 112)]:
            found[f"DINOv2, {registers} registers, {size}"] = dino_difference(encoder, network, size, 14)
    return found


def compare_mri_core(clones: Path) -> dict[str, float]:
    sizes = MriCoreArchitecture(48, 4, 3)
    network = drawn(dinov2(clones, sizes, 64, patch_size=16, init_values=None, block_chunks=2))
    state = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    return {"MRI-CORE, (64, 64)": dino_difference(loaded(sizes, state, 64), network, (64, 64), 16)}


def compare_dinov3(clones: Path) -> dict[str, float]:
    found = {}
    for gated in (False, True):
        sizes = Dinov3Architecture(48, 4, 3, 192, gated)
        network = drawn(dinov3(clones, sizes))
        encoder = loaded(sizes, network.state_dict(), 64)
        for size in [(64, 64), (48, 112)]:
            found[f"DINOv3, gated {gated}, {size}"] = dino_difference(encoder, network, size, 16)
    return found


@torch.no_grad()
def compare_hiera(clones: Path) -> dict[str, float]:
    sizes = HieraArchitecture(16, 1, (1, 2, 3, 2), (4, 5), embed_dim=32)
    network = drawn(hiera(clones, sizes))
    state = {f"image_encoder.{name}": value for name, value in network.state_dict().items()}
    encoder, found = loaded(sizes, state, 64), {}
    for size in [(64, 64), (128, 96), (32, 224)]:
        encoder.resize_to(size)
        images = torch.rand(2, 3, *size)
        own = encoder(images)
        theirs = network(encoder.normalise(images))["backbone_fpn"]
        pairs = zip((*own.features, own.image_embeddings), theirs, strict=True)
        found[f"SAM 2, {size}"] = max((ours - other).abs().max().item() for ours, other in pairs)
    return found


def published_state(clones: Path, sizes: Any, image_size: int) -> Named | None:
    """Returns the entries of a network of the authors, without values; None for other architectures."""
    if isinstance(sizes, HieraArchitecture):  # reads values while it is built, which the meta device has not
        state = hiera(clones, sizes).state_dict()
        return {f"image_encoder.{name}": value.to("meta") for name, value in state.items()}
    with torch.device("meta"):
        if isinstance(sizes, Dinov2Architecture):
            options = {"patch_size": 14, "init_values": 1.0, "block_chunks": 0}
            return dinov2(clones, sizes, image_size, num_register_tokens=sizes.num_registers, **options).state_dict()
        if isinstance(sizes, Dinov3Architecture):
            return dinov3(clones, sizes).state_dict()
        if isinstance(sizes, MriCoreArchitecture):
            state = dinov2(clones, sizes, image_size, patch_size=16, init_values=None, block_chunks=4).state_dict()
            return {f"backbone.{name}": value for name, value in state.items()}
    return None


def compare_published(clones: Path) -> int:
    """Compares names and shapes of the published sizes; returns how many differ."""
    wrong = 0
    for record in ENCODERS.values():
        state = published_state(clones, record.architecture, record.image_size)
        if state is None:
            continue
        with torch.device("meta"):
            encoder = record.architecture.build(record.image_size, record.mean, record.std)
        entries = record.architecture.backbone_entries(state, "the clone")
        own = encoder.backbone.state_dict()
        same = {name: value.shape for name, value in entries.items()} == {n: v.shape for n, v in own.items()}
        wrong += not same
        print(f"{record.name}: {'same' if same else 'OTHER'} names and shapes, {sum(v.numel() for v in own.values())}")
    return wrong


def main(clones: Path) -> int:
    parts: list[Callable[[Path], dict[str, float]]] = [compare_dinov2, compare_mri_core, compare_dinov3, compare_hiera]
    differences = {name: value for part in parts for name, value in part(clones).items()}
    for name, difference in differences.items():
        print(f"{name}: largest difference {difference:.1e}")
    wrong = compare_published(clones) + sum(not value < TOLERANCE for value in differences.values())
    print("All agree." if wrong == 0 else f"{wrong} differ.")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
