"""Sampling a transfer set to disk.

It can be killed at any time and run again: images whose file has the recorded sha256 are kept, all others are sampled
again from their own seeds, with the same result.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from tqdm import tqdm

from tskd_monai.data.atomic import atomic_path, read_json, write_json
from tskd_monai.data.checksum import file_sha256
from tskd_monai.data.transfer_set import FORMAT_VERSION, MANIFEST_NAME, PROGRESS_NAME, image_name
from tskd_monai.synthesis.pipeline_folder import unet_sha256
from tskd_monai.synthesis.sampling import sample_images
from tskd_monai.training.record import package_versions

logger = logging.getLogger(__name__)


def write_transfer_set(
    output_dir: str | Path,
    unet: UNet2DModel,
    noise_scheduler: DDPMScheduler,
    *,
    number: int,
    image_shape: Sequence[int],
    batch_size: int,
    task_hash: str,
    pixdim: Sequence[float] | None = None,
    base_seed: int = 0,
    num_inference_steps: int = 20,
    sampler: str = "dpmsolver++",
    device: str | torch.device = "cpu",
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Samples the images that are still missing and writes the list; returns the path of `transfer_set.json`.

    Args:
        output_dir: of the transfer set; one that was begun or finished with the same settings is continued.
        unet: with the weights to sample from.
        noise_scheduler: of the training.
        number: of images; may grow from run to run.
        image_shape: (C, H, W).
        batch_size: of the network's calls. Another one changes images in their last bits, so it counts as a setting.
        task_hash: of the task that the model was trained for.
        pixdim: spacing of the rows and columns in mm; None for images without one.
        base_seed: image i has seed base_seed + i.
        num_inference_steps: calls of the network per batch.
        sampler: "dpmsolver++" or "ddim".
        device: that the network runs on.
        provenance: what else is worth recording, such as the datalist's sha256; must be JSON.

    Raises:
        ValueError: when the folder holds images of other settings, or images of unknown origin.
    """
    if number < 1:
        raise ValueError(f"Expected number of images to be at least 1, found {number}.")
    output_dir = Path(output_dir)
    channels, height, width = image_shape
    settings = {
        "format_version": FORMAT_VERSION,
        "task_hash": task_hash,
        "checkpoint_sha256": unet_sha256(unet),
        "image_size": [height, width],
        "channels": channels,
        "pixdim": None if pixdim is None else [float(spacing) for spacing in pixdim],
        "sampler": sampler,
        "num_inference_steps": num_inference_steps,
        "batch_size": batch_size,
        "base_seed": base_seed,
    }
    finished = _finished_images(output_dir, settings)
    missing = [index for index in range(number) if index not in finished]
    images = sample_images(
        unet,
        noise_scheduler,
        seeds=[base_seed + index for index in missing],
        image_shape=image_shape,
        batch_size=batch_size,
        num_inference_steps=num_inference_steps,
        sampler=sampler,
        device=device,
    )
    _begin_progress(output_dir, settings, finished)
    bar = tqdm(images, total=number, initial=number - len(missing), desc="transfer set", unit="image")
    for index, (_, image) in zip(missing, bar, strict=True):
        finished[index] = _write_image(output_dir, index, image)
    content = {
        **settings,
        "provenance": {**(provenance or {}), "versions": package_versions()},
        "unlabeled": [_entry(index, base_seed, finished[index]) for index in range(number)],
    }
    write_json(output_dir / MANIFEST_NAME, content)
    (output_dir / PROGRESS_NAME).unlink()
    return output_dir / MANIFEST_NAME


def _entry(index: int, base_seed: int, sha256: str) -> dict[str, Any]:
    return {
        "image": image_name(index),
        "case": f"synthetic_{index:06d}",
        "origin": "synthetic",
        "seed": base_seed + index,
        "sha256": sha256,
    }


def _write_image(output_dir: Path, index: int, image: torch.Tensor) -> str:
    """Writes an image (C, H, W) in [0, 1] as PNG, notes it in the progress file and returns the file's sha256."""
    pixels = (image * 255).round().to(torch.uint8).numpy()
    path = output_dir / image_name(index)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)).save(temporary)
    sha256 = file_sha256(path)
    _note_progress(output_dir, {"index": index, "sha256": sha256})
    return sha256


def _note_progress(output_dir: Path, line: Mapping[str, Any]) -> None:
    with (output_dir / PROGRESS_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _begin_progress(output_dir: Path, settings: Mapping[str, Any], finished: Mapping[int, str]) -> None:
    """Writes a progress file anew: the settings, and the images that are whole."""
    lines = [settings, *({"index": index, "sha256": sha256} for index, sha256 in finished.items())]
    with atomic_path(output_dir / PROGRESS_NAME) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _finished_images(output_dir: Path, settings: Mapping[str, Any]) -> dict[int, str]:
    """Returns index and sha256 of the images on disk that earlier runs with the same settings wrote, by index.

    Raises:
        ValueError: when earlier runs had other settings, or left images but no word about them.
    """
    recorded: dict[int, str] = {}
    manifest, progress = output_dir / MANIFEST_NAME, output_dir / PROGRESS_NAME
    if manifest.is_file():
        content = read_json(manifest)
        _check_settings(manifest, content, settings)
        recorded.update((entry["seed"] - content["base_seed"], entry["sha256"]) for entry in content["unlabeled"])
    if progress.is_file():
        header, *lines = _progress_lines(progress)
        _check_settings(progress, header, settings)
        recorded.update((line["index"], line["sha256"]) for line in lines)
    if not manifest.is_file() and not progress.is_file() and any(output_dir.glob("images/*.png")):
        raise ValueError(
            f"Expected {output_dir} to be new or a transfer set, found images without {MANIFEST_NAME}; "
            "choose another output_dir or remove them."
        )
    whole = {index: sha256 for index, sha256 in sorted(recorded.items()) if _is_whole(output_dir, index, sha256)}
    if len(whole) < len(recorded):
        logger.warning("%d images are missing or damaged and are sampled again.", len(recorded) - len(whole))
    return whole


def _is_whole(output_dir: Path, index: int, sha256: str) -> bool:
    path = output_dir / image_name(index)
    return path.is_file() and file_sha256(path) == sha256


def _progress_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a progress file, less a last one that a kill cut short.

    Raises:
        ValueError: when another line is damaged.
    """
    *lines, rest = path.read_text(encoding="utf-8").split("\n")
    if rest:
        logger.warning("The last line of %s is cut short; its image is sampled again.", path.name)
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise ValueError(
            f"Expected JSON in every line of {path}: {error}. Remove the transfer set's folder."
        ) from error


def _check_settings(path: Path, found: Any, expected: Mapping[str, Any]) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"Expected the settings of a transfer set in {path}, found {type(found).__name__}.")
    differing = [key for key in expected if found.get(key) != expected[key]]
    if differing:
        key = differing[0]
        raise ValueError(
            f"Expected {path} to continue with the same settings, but {', '.join(differing)} differ: {key} is "
            f"{found.get(key)!r} there and {expected[key]!r} now. Choose another output_dir, or remove that folder."
        )
