#!/usr/bin/env python
"""Pre-trains the small SAM-architecture encoder that ships with the teacher_lora bundle.

Published foundation models are too large to ship. This encoder is a small version of SAM's architecture trained on
procedural images only, so that the whole method can be tried without a download; it is no substitute for SAM.

Self-supervision by restoration, after SimMIM (Xie et al., arXiv 2111.09886) and denoising autoencoders (Vincent et
al., 2008): a scene of flat regions is rendered with texture, shading, blur and noise, blocks of it are masked, and the
encoder's embeddings of the rest must reconstruct the flat scene through one linear layer.

    python scripts/pretrain_demo_encoder.py --steps 2400 --seed 0

About 20 minutes on one core. The same seed, steps and torch build on one thread give the same weights.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import write_json
from tskd_monai.networks.encoder_records import encoder_record
from tskd_monai.networks.plain_vit import PlainVitEncoder
from tskd_monai.networks.pretrained import RANDOM, build_encoder
from tskd_monai.networks.sam_encoder import ENCODER_PREFIX, SamEncoder

logger = logging.getLogger("pretrain_demo_encoder")

ENCODER = "sam_demo"
DEFAULT_OUTPUT = Path(__file__).resolve().parents[1] / str(encoder_record(ENCODER).shipped)
PATCH = 16
BATCH_SIZE = 24
POOL_BATCHES = 256
SHAPES_PER_SCENE = 7
CURVES_PER_SCENE = 2
CURVE_POINTS_SPREAD = 0.5
MAX_REGIONS = 10
PEAK_LEARNING_RATE = 1.5e-3
WARMUP_FRACTION = 0.05
SUMMARY_POINTS = 20


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Returns values drawn uniformly from [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def lattice_noise(batch: int, cells: int, side: int, generator: Generator) -> Tensor:
    """Returns smooth noise ``(batch, side, side)``: normal values on a grid of ``cells``, interpolated bicubically."""
    lattice = torch.randn((batch, 1, cells, cells), generator=generator)
    return F.interpolate(lattice, size=(side, side), mode="bicubic", align_corners=False).squeeze(1)


def warped_coordinates(batch: int, side: int, strength: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Returns x and y in [-1, 1], each ``(batch, side, side)``, warped by smooth noise so no border is straight."""
    axis = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    amount = uniform((batch, 1, 1), 0.0, strength, generator)
    bend_x, bend_y = (amount * lattice_noise(batch, 5, side, generator) for _ in range(2))
    return x + bend_x, y + bend_y


def cells(x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Returns a Voronoi partition: the grey and the texture strength of every pixel's cell, ``(batch, side, side)``."""
    batch = len(x)
    centres = uniform((batch, MAX_REGIONS, 2), -1.0, 1.0, generator)
    count = torch.randint(1, MAX_REGIONS + 1, (batch, 1), generator=generator)
    distance = (x[:, None] - centres[:, :, 0, None, None]) ** 2 + (y[:, None] - centres[:, :, 1, None, None]) ** 2
    absent = torch.arange(MAX_REGIONS) >= count
    cell = distance.masked_fill(absent[:, :, None, None], math.inf).argmin(dim=1).flatten(1)
    grey = uniform((batch, MAX_REGIONS), 0.0, 1.0, generator).gather(1, cell).view_as(x)
    texture = uniform((batch, MAX_REGIONS), 0.0, 1.0, generator).gather(1, cell).view_as(x)
    return grey, texture


def blob_coverage(x: Tensor, y: Tensor, generator: Generator) -> Tensor:
    """Returns the soft coverage in [0, 1] of one star-shaped blob per scene: ellipse, lobed outline or polygon."""
    batch = len(x)
    centre_x, centre_y = (uniform((batch, 1, 1), -0.9, 0.9, generator) for _ in range(2))
    angle = uniform((batch, 1, 1), 0.0, math.pi, generator)
    radii = [torch.exp(uniform((batch, 1, 1), math.log(0.06), math.log(0.6), generator)) for _ in range(2)]
    dx, dy = x - centre_x, y - centre_y
    u = (dx * angle.cos() + dy * angle.sin()) / radii[0]
    v = (dy * angle.cos() - dx * angle.sin()) / radii[1]
    theta = torch.atan2(v, u)
    outline = torch.ones_like(theta)
    lobed = (torch.rand((batch, 1, 1), generator=generator) < 0.6).float()
    for order in range(2, 6):
        amplitude = lobed * uniform((batch, 1, 1), 0.0, 0.5 / order, generator)
        outline = outline + amplitude * torch.cos(order * theta + uniform((batch, 1, 1), 0.0, 2 * math.pi, generator))
    corners = torch.randint(3, 8, (batch, 1, 1), generator=generator)
    sector = 2 * math.pi / corners
    polygon = torch.cos(sector / 2) / torch.cos(torch.remainder(theta, sector) - sector / 2)
    outline = torch.where(torch.rand((batch, 1, 1), generator=generator) < 0.25, polygon, outline)
    softness = uniform((batch, 1, 1), 0.01, 0.05, generator)
    depth = (outline - torch.hypot(u, v)) * torch.minimum(radii[0], radii[1])
    return torch.sigmoid(depth / softness * 2)


def curve_coverage(x: Tensor, y: Tensor, generator: Generator) -> Tensor:
    """Returns the soft coverage in [0, 1] of one thin, wavy line per scene; half of the scenes have none."""
    batch = len(x)
    angle = uniform((batch, 1, 1), 0.0, math.pi, generator)
    offset = uniform((batch, 1, 1), -CURVE_POINTS_SPREAD, CURVE_POINTS_SPREAD, generator)
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    wave = uniform((batch, 1, 1), 0.0, 0.15, generator) * torch.sin(
        along * uniform((batch, 1, 1), 2.0, 9.0, generator) + uniform((batch, 1, 1), 0.0, 2 * math.pi, generator)
    )
    width = uniform((batch, 1, 1), 0.015, 0.06, generator)
    present = (torch.rand((batch, 1, 1), generator=generator) < 0.5).float()
    return present * torch.sigmoid((width - (across - offset - wave).abs()) / 0.008)


def flat_scene(batch: int, side: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Returns flat scenes in [0, 1] and the strength of texture at each pixel, ``(batch, side, side)`` both."""
    x, y = warped_coordinates(batch, side, 0.12, generator)
    scene, texture = cells(x, y, generator)
    coverages = [blob_coverage(x, y, generator) for _ in range(SHAPES_PER_SCENE)]
    coverages += [curve_coverage(x, y, generator) for _ in range(CURVES_PER_SCENE)]
    for coverage in coverages:
        scene = torch.lerp(scene, uniform((batch, 1, 1), 0.0, 1.0, generator).expand_as(scene), coverage)
        texture = torch.lerp(texture, uniform((batch, 1, 1), 0.0, 1.0, generator).expand_as(scene), coverage)
    return scene, texture


def render(scene: Tensor, texture: Tensor, generator: Generator) -> Tensor:
    """Returns images in [0, 1] of flat scenes: textured, shaded, blurred, with noise, ``(batch, side, side)``."""
    batch, side = len(scene), scene.shape[-1]
    coarse, fine = (lattice_noise(batch, count, side, generator) for count in (side // 8, side // 3))
    grain = torch.lerp(coarse, fine, uniform((batch, 1, 1), 0.0, 1.0, generator))
    image = scene + uniform((batch, 1, 1), 0.0, 0.15, generator) * texture * grain
    shading = lattice_noise(batch, 3, side, generator) * uniform((batch, 1, 1), 0.0, 0.25, generator)
    image = image * torch.exp(shading)
    blurred = F.avg_pool2d(image.unsqueeze(1), 3, stride=1, padding=1, count_include_pad=False).squeeze(1)
    image = torch.lerp(image, blurred, uniform((batch, 1, 1), 0.0, 1.0, generator))
    noise = torch.randn(image.shape, generator=generator) * uniform((batch, 1, 1), 0.0, 0.08, generator)
    return (image + noise).clamp(0, 1)


def hide_patches(images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Fills a random fraction (0 to 60 %) of the patches of images ``(batch, side, side)`` with one random grey level.

    Returns:
        The images and a mask of the same shape, 1 where hidden.
    """
    batch, side = len(images), images.shape[-1]
    fraction = uniform((batch, 1, 1), 0.0, 0.6, generator)
    hidden = (torch.rand((batch, side // PATCH, side // PATCH), generator=generator) < fraction).float()
    hidden = hidden.repeat_interleave(PATCH, dim=1).repeat_interleave(PATCH, dim=2)
    return torch.lerp(images, uniform((batch, 1, 1), 0.0, 1.0, generator).expand_as(images), hidden), hidden


def scene_pool(batches: int, side: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Returns scenes and textures of the whole training run in half precision, each ``(batches * 24, side, side)``."""
    drawn = [
        tuple(part.half() for part in flat_scene(BATCH_SIZE, side, generator))
        for _ in trange(batches, desc="drawing scenes", mininterval=5)
    ]
    scenes, textures = zip(*drawn, strict=True)
    return torch.cat(scenes), torch.cat(textures)


def training_batch(scenes: Tensor, textures: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draws scenes from the pool, rotated, with other grey levels, and newly rendered.

    Args:
        scenes: the pool, ``(N, side, side)``.
        textures: texture strengths of the pool, same shape.
        generator: source of every draw.

    Returns:
        Degraded images, flat scenes and the mask of hidden pixels, each ``(24, 1, side, side)``.
    """
    chosen = torch.randint(len(scenes), (BATCH_SIZE,), generator=generator)
    turns, flipped = torch.randint(4, (1,), generator=generator).item(), torch.rand(1, generator=generator).item() < 0.5
    scene, texture = (torch.rot90(pool[chosen].float(), int(turns), (1, 2)) for pool in (scenes, textures))
    if flipped:
        scene, texture = scene.flip(2), texture.flip(2)
    scene = scene ** torch.exp(uniform((BATCH_SIZE, 1, 1), -0.7, 0.7, generator))
    inverted = (torch.rand((BATCH_SIZE, 1, 1), generator=generator) < 0.5).float()
    scene = torch.lerp(scene, 1 - scene, inverted.expand_as(scene))
    image, hidden = hide_patches(render(scene, texture, generator), generator)
    return image.unsqueeze(1), scene.unsqueeze(1), hidden.unsqueeze(1)


def restoration_loss(restored: Tensor, scene: Tensor, hidden: Tensor) -> Tensor:
    """Returns the mean absolute error on visible pixels plus half of the one on hidden pixels."""
    error = (restored - scene).abs()
    visible = 1 - hidden
    return (error * visible).sum() / visible.sum() + 0.5 * (error * hidden).sum() / hidden.sum().clamp_min(1)


def learning_rate_fraction(step: int, steps: int) -> float:
    """Returns the learning rate as a fraction of its peak: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(WARMUP_FRACTION * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def pretrain(steps: int, seed: int) -> tuple[SamEncoder | PlainVitEncoder, list[float]]:
    """Returns the trained encoder and the loss of every step."""
    side = encoder_record(ENCODER).image_size
    encoder = build_encoder(ENCODER, RANDOM, side, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    head = nn.Sequential(nn.Conv2d(encoder.embed_dim, PATCH * PATCH, kernel_size=1), nn.PixelShuffle(PATCH))
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=PEAK_LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_fraction(step, steps))
    scenes, textures = scene_pool(min(POOL_BATCHES, steps), side, generator)
    losses = []
    for _ in (progress := trange(steps, desc="pre-training", mininterval=5)):
        images, targets, hidden = training_batch(scenes, textures, generator)
        loss = restoration_loss(head(encoder(images).image_embeddings) + 0.5, targets, hidden)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.4f}", refresh=False)
    return encoder, losses


def summary(losses: list[float], seed: int) -> dict[str, Any]:
    """Returns seed, steps and the mean loss of up to 20 segments of equal length."""
    stretch = max(1, math.ceil(len(losses) / SUMMARY_POINTS))
    means = [losses[start : start + stretch] for start in range(0, len(losses), stretch)]
    return {
        "encoder": ENCODER,
        "seed": seed,
        "steps": len(losses),
        "batch_size": BATCH_SIZE,
        "steps_per_point": stretch,
        "loss": [round(sum(part) / len(part), 5) for part in means],
    }


def save(encoder: SamEncoder | PlainVitEncoder, report: dict[str, Any], output: Path) -> None:
    """Writes the weights in half precision under SAM's names, and the loss curve beside them as JSON."""
    state = {ENCODER_PREFIX + name: value.half().contiguous() for name, value in encoder.backbone.state_dict().items()}
    metadata = {
        "format": "pt",
        "script": f"scripts/{Path(__file__).name}",
        "seed": str(report["seed"]),
        "steps": str(report["steps"]),
        "licence": "Apache-2.0",
    }
    with atomic_path(output) as temporary:
        temporary.write_bytes(to_safetensors(state, metadata))
    write_json(output.with_suffix(".json"), report)


def main() -> None:
    """Parses the command line, trains and saves."""
    parser = argparse.ArgumentParser(description="Pre-train the demo encoder on procedural images.")
    parser.add_argument("--steps", type=int, default=2400, help="number of training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of images and weights (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="safetensors file to write")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"expected --steps of at least 1, found {arguments.steps}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    encoder, losses = pretrain(arguments.steps, arguments.seed)
    report = summary(losses, arguments.seed)
    save(encoder, report, arguments.output)
    first, *_, last = report["loss"]
    logger.info("Wrote %s; mean loss %s at the start, %s at the end.", arguments.output.name, first, last)


if __name__ == "__main__":
    main()
