#!/usr/bin/env python
"""Pre-trains the small SAM that ships with the teacher_lora bundle: image encoder, prompt encoder and mask decoder.

Published foundation models are too large to ship. This is SAM's architecture in small, trained on procedural images
only, so that the whole method can be tried without a download; it is no substitute for SAM.

Promptable pre-training, as SAM's (Kirillov et al., "Segment Anything", 2023): a scene of many bordering, partly hidden
regions is rendered with textures, shading, blur and noise, and the model must outline the region that a box or points
name. The scenes share no code with the embedded dataset.

    python scripts/pretrain_demo_encoder.py --steps 5000 --seed 0

The same seed, steps and torch build on one thread give the same weights.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from skimage.measure import label as connected_components
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import write_json
from tskd_monai.networks.encoder_records import encoder_record
from tskd_monai.networks.pretrained import RANDOM
from tskd_monai.networks.promptable import PromptableSegmenter, build_promptable, published_state

ENCODER = "sam_demo"
DEFAULT_OUTPUT = Path(__file__).resolve().parents[1] / str(encoder_record(ENCODER).shipped)
BATCH_SIZE, POOL_SIZE = 12, 5000  # scenes
PROMPTS, CELLS, BLOBS, CURVES = 6, 8, 8, 2  # in each image
MAX_PIECES, MIN_AREA = 96, 30  # regions in a scene; pixels of one that is prompted
KINDS = {"box": 0.6, "point": 0.25, "box_and_point": 0.15}  # prompts, and their share of the steps
MULTIMASK_SHARE, PEAK_LEARNING_RATE = 0.25, 1.5e-3
WARMUP_FRACTION, BALANCED_FRACTION = 0.02, 0.25  # of the steps
HELD_OUT_IMAGES, CURVE_POINTS = 128, 20


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Returns values drawn uniformly from [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def lattice_noise(batch: int, cells: int, side: int, generator: Generator) -> Tensor:
    """Returns smooth noise ``(batch, side, side)``: normal values on a grid of ``cells``, interpolated bicubically."""
    lattice = torch.randn((batch, 1, cells, cells), generator=generator)
    return F.interpolate(lattice, size=(side, side), mode="bicubic", align_corners=False).squeeze(1)


def warped_coordinates(batch: int, side: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Returns x and y in [-1, 1], each ``(batch, side, side)``, warped by smooth noise so no border is straight."""
    axis = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    amount = uniform((batch, 1, 1), 0.0, 0.12, generator)
    bend_x, bend_y = (amount * lattice_noise(batch, 5, side, generator) for _ in range(2))
    return x + bend_x, y + bend_y


def cells(x: Tensor, y: Tensor, generator: Generator) -> Tensor:
    """Returns a Voronoi partition: the number of every pixel's cell, ``(batch, side, side)``."""
    centres = uniform((len(x), CELLS, 2), -1.0, 1.0, generator)
    count = torch.randint(1, CELLS + 1, (len(x), 1), generator=generator)
    distance = (x[:, None] - centres[:, :, 0, None, None]) ** 2 + (y[:, None] - centres[:, :, 1, None, None]) ** 2
    absent = torch.arange(CELLS) >= count
    return distance.masked_fill(absent[:, :, None, None], math.inf).argmin(dim=1)


def blob(x: Tensor, y: Tensor, generator: Generator) -> Tensor:
    """Returns the pixels of one star-shaped blob per scene: ellipse, lobed outline or polygon."""
    each = (len(x), 1, 1)
    dx, dy = (axis - uniform(each, -0.9, 0.9, generator) for axis in (x, y))
    angle = uniform(each, 0.0, math.pi, generator)
    radii = [torch.exp(uniform(each, math.log(0.06), math.log(0.6), generator)) for _ in range(2)]
    u = (dx * angle.cos() + dy * angle.sin()) / radii[0]
    v = (dy * angle.cos() - dx * angle.sin()) / radii[1]
    theta, outline = torch.atan2(v, u), torch.ones_like(u)
    lobed = (torch.rand(each, generator=generator) < 0.6).float()
    for order in range(2, 6):
        amplitude = lobed * uniform(each, 0.0, 0.5 / order, generator)
        outline = outline + amplitude * torch.cos(order * theta + uniform(each, 0.0, 2 * math.pi, generator))
    sector = 2 * math.pi / torch.randint(3, 8, each, generator=generator)
    polygon = torch.cos(sector / 2) / torch.cos(torch.remainder(theta, sector) - sector / 2)
    outline = torch.where(torch.rand(each, generator=generator) < 0.25, polygon, outline)
    return torch.hypot(u, v) < outline


def curve(x: Tensor, y: Tensor, generator: Generator) -> Tensor:
    """Returns the pixels of one thin, wavy line per scene; half of the scenes have none."""
    each = (len(x), 1, 1)
    angle, phase = uniform(each, 0.0, math.pi, generator), uniform(each, 0.0, 2 * math.pi, generator)
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    wave = uniform(each, 0.0, 0.15, generator) * torch.sin(along * uniform(each, 2.0, 9.0, generator) + phase)
    width = uniform(each, 0.015, 0.06, generator) * (torch.rand(each, generator=generator) < 0.5)
    return (across - uniform(each, -0.5, 0.5, generator) - wave).abs() < width


def scenes(count: int, side: int, generator: Generator) -> Tensor:
    """Returns scenes of connected pieces, numbered from 0, ``(count, side, side)`` as uint8."""
    drawn = []
    for start in trange(0, count, 32, desc="drawing scenes", mininterval=5):
        x, y = warped_coordinates(min(32, count - start), side, generator)
        regions = cells(x, y, generator)
        for number in range(BLOBS + CURVES):
            inside = (blob if number < BLOBS else curve)(x, y, generator)
            regions = torch.where(inside, CELLS + number, regions)
        pieces = [torch.from_numpy(connected_components(one, background=-1, connectivity=1)) for one in regions.numpy()]
        drawn.append((torch.stack(pieces) - 1).clamp(max=MAX_PIECES - 1).to(torch.uint8))
    return torch.cat(drawn)


def render(pieces: Tensor, generator: Generator) -> Tensor:
    """Returns images ``(B, 1, side, side)`` in [0, 1]: each piece has a grey and a texture; shading, blur, noise."""
    batch, side = len(pieces), pieces.shape[-1]
    each, index = (batch, 1, 1), pieces.flatten(1).long()

    def of_piece(low: float, high: float) -> Tensor:
        return uniform((batch, MAX_PIECES), low, high, generator).gather(1, index).view(pieces.shape)

    contrast = uniform(each, 0.3, 1.0, generator)
    image = uniform(each, 0.0, 1.0, generator) * (1 - contrast) + contrast * of_piece(0.0, 1.0)
    coarse, fine = (lattice_noise(batch, count, side, generator) for count in (side // 10, side // 3))
    spots = torch.tanh(4 * lattice_noise(batch, side // 7, side, generator))  # two greys, as a tissue with vessels
    strength = uniform(each, 0.0, 0.12, generator)
    for texture in (coarse, fine, spots):
        image = image + strength * of_piece(-0.5, 1.0).clamp_min(0) * texture
    image = image * torch.exp(lattice_noise(batch, 3, side, generator) * uniform(each, 0.0, 0.3, generator))
    for _ in range(2):
        blurred = F.avg_pool2d(image[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
        image = torch.lerp(image, blurred, uniform(each, 0.0, 1.0, generator))
    image = image + torch.randn(image.shape, generator=generator) * uniform(each, 0.0, 0.08, generator)
    return image.clamp(0, 1)[:, None]


def prompted_masks(pieces: Tensor, generator: Generator) -> Tensor:
    """Returns the masks of some pieces of each scene, drawn at random, ``(B, PROMPTS, side, side)``."""
    index = pieces.flatten(1).long()
    areas = torch.zeros(len(pieces), MAX_PIECES).scatter_add_(1, index, torch.ones(index.shape))
    chosen = torch.multinomial((areas >= MIN_AREA).float(), PROMPTS, replacement=True, generator=generator)
    return pieces[:, None] == chosen[:, :, None, None]


def boxes_around(masks: Tensor, generator: Generator) -> Tensor:
    """Returns boxes ``(B, N, 4)`` of masks as ``x1 y1 x2 y2``, sides shifted by about a tenth of the box."""
    side = masks.shape[-1]
    spans = [masks.any(dim).byte() for dim in (-2, -1)]
    low = torch.stack([span.argmax(-1) for span in spans], dim=-1)
    high = torch.stack([side - 1 - span.flip(-1).argmax(-1) for span in spans], dim=-1)
    shift = 0.1 * torch.randn((*low.shape[:-1], 2, 2), generator=generator).clamp(-2, 2)
    sides = torch.stack([low, high], dim=-2) + shift * (high - low + 1)[..., None, :]
    return sides.clamp(0, side - 1).flatten(-2)


def points_of(masks: Tensor, boxes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Returns a point in each mask and one in its box (half of them with label -1, left out), and their labels."""
    side = masks.shape[-1]
    first = (masks.flatten(2) * torch.rand(masks.flatten(2).shape, generator=generator)).argmax(-1)
    first = torch.stack([first % side, first // side], dim=-1)
    low, high = boxes.unflatten(-1, (2, 2)).unbind(-2)
    second = (low + (high - low) * torch.rand(low.shape, generator=generator)).round().long()
    labels = masks.flatten(2).gather(2, (second[..., 1] * side + second[..., 0])[..., None]).long()
    labels = torch.where(torch.rand(labels.shape, generator=generator) < 0.5, labels, -1)
    return torch.stack([first, second], dim=-2).float(), torch.cat([torch.ones_like(labels), labels], dim=-1)


def decode(
    model: PromptableSegmenter, images: Tensor, masks: Tensor, kind: str, multimask: bool, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Returns logits ``(B, N, M, side / 4, side / 4)`` of masks and their predicted IoU ``(B, N, M)``.

    The masks are ``(B, N, side, side)``; prompts of a kind of ``KINDS`` are drawn for each.
    """
    boxes = boxes_around(masks, generator)
    points, labels = (None, None) if kind == "box" else points_of(masks, boxes, generator)
    sparse, _ = model.prompt_encoder(points, labels, None if kind == "point" else boxes, None)
    return model.decode(model.embed(images), sparse, multimask=multimask)


def mask_loss(logits: Tensor, predicted_iou: Tensor, masks: Tensor, balance: float) -> Tensor:
    """Returns cross-entropy and Dice loss of the best mask for each prompt, with the error of the predicted IoU.

    With ``balance`` 1 pixels inside weigh half as much as those outside, all together; with 0 each pixel weighs the
    same, and a start from random weights stays at empty masks.
    """
    target = F.adaptive_avg_pool2d(masks.float(), (logits.shape[-2], logits.shape[-1]))[:, :, None].expand_as(logits)
    weight = 1 + target * balance * 0.5 / target.mean((-2, -1), keepdim=True).clamp_min(0.005)
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none").mean((-2, -1))
    found = logits.sigmoid()
    dice = 1 - (2 * (found * target).sum((-2, -1)) + 1) / ((found + target).sum((-2, -1)) + 1)
    inside, reference = logits > 0, target > 0.5
    iou = (inside & reference).sum((-2, -1)) / (inside | reference).sum((-2, -1)).clamp_min(1)
    error = F.mse_loss(predicted_iou, iou, reduction="none")
    return ((3 - 2 * balance) * entropy + dice).amin(-1).mean() + 0.1 * error.mean()


@torch.no_grad()
def held_out_iou(model: PromptableSegmenter, pieces: Tensor, kind: str) -> float:
    """Returns the mean IoU at image size over prompts of scenes that are not trained on; the same at every call."""
    generator = torch.Generator().manual_seed(1)
    images, masks = render(pieces, generator), prompted_masks(pieces, generator)
    logits, _ = decode(model, images, masks, kind, False, generator)
    found = F.interpolate(logits[:, :, 0], size=masks.shape[-2:], mode="bilinear", align_corners=False) > 0
    return ((found & masks).sum((-2, -1)) / (found | masks).sum((-2, -1))).mean().item()


def learning_rate_fraction(step: int, steps: int) -> float:
    """Returns the learning rate as a fraction of its peak: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(WARMUP_FRACTION * steps))
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    return (step + 1) / warmup if step < warmup else cosine


def training_loss(model: PromptableSegmenter, pool: Tensor, balance: float, generator: Generator) -> Tensor:
    """Returns the loss of scenes drawn from the pool, rotated, mirrored and newly rendered, with new prompts."""
    pieces = pool[torch.randint(len(pool), (BATCH_SIZE,), generator=generator)]
    kind = list(KINDS)[int(torch.multinomial(torch.tensor(list(KINDS.values())), 1, generator=generator))]
    turns, mirrored, multimask = torch.rand(3, generator=generator).tolist()
    pieces = torch.rot90(pieces, int(4 * turns), (1, 2)).flip([2] if mirrored < 0.5 else [])
    images, masks = render(pieces, generator), prompted_masks(pieces, generator)
    return mask_loss(*decode(model, images, masks, kind, multimask < MULTIMASK_SHARE, generator), masks, balance)


def pretrain(steps: int, seed: int, output: Path) -> dict[str, Any]:
    """Trains; writes weights and report at every point of the curve, and returns the last report."""
    side = encoder_record(ENCODER).image_size
    model = build_promptable(ENCODER, RANDOM, side, seed=seed).requires_grad_(True).train()
    model.prompt_encoder.shared_embedding.requires_grad_(False)  # random Fourier features, as in SAM
    generator = torch.Generator().manual_seed(seed)
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=PEAK_LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_fraction(step, steps))
    held_out = scenes(HELD_OUT_IMAGES, side, torch.Generator().manual_seed(seed + 2**31))
    pool = scenes(min(POOL_SIZE, steps * BATCH_SIZE), side, generator)
    report: dict[str, Any] = {"encoder": ENCODER, "seed": seed, "batch_size": BATCH_SIZE, "curve": []}
    losses = []
    for step in (progress := trange(1, steps + 1, desc="pre-training", mininterval=5)):
        loss = training_loss(model, pool, max(0.0, 1 - step / (BALANCED_FRACTION * steps)), generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % math.ceil(steps / CURVE_POINTS) == 0 or step == steps:
            iou = {f"{kind}_iou": round(held_out_iou(model, held_out, kind), 3) for kind in ("box", "point")}
            report["curve"].append({"step": step, "loss": round(sum(losses) / len(losses), 4), **iou})
            progress.set_postfix(report["curve"][-1], refresh=False)
            losses.clear()
            save(model, report, output)
    return report


def save(model: PromptableSegmenter, report: dict[str, Any], output: Path) -> None:
    """Writes the weights in half precision under SAM's names, and the learning curve beside them as JSON."""
    metadata = {"format": "pt", "licence": "Apache-2.0", "script": f"scripts/{Path(__file__).name}"}
    metadata |= {"seed": str(report["seed"]), "steps": str(report["curve"][-1]["step"])}
    state = {name: value.half().contiguous() for name, value in published_state(model).items()}
    with atomic_path(output) as temporary:
        temporary.write_bytes(to_safetensors(state, metadata))
    write_json(output.with_suffix(".json"), report)


def main() -> None:
    """Parses the command line, trains and saves."""
    parser = argparse.ArgumentParser(description="Pre-train the demo encoder on procedural images.")
    parser.add_argument("--steps", type=int, default=5000, help="number of training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of images and weights (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="safetensors file to write")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"expected --steps of at least 1, found {arguments.steps}")
    torch.set_num_threads(1)
    print(arguments.output.name, pretrain(arguments.steps, arguments.seed, arguments.output)["curve"][-1])


if __name__ == "__main__":
    main()
