"""Sampling a transfer set to disk.

Sampling resumes after an interruption: images whose files match the recorded sha256 are kept, and all others are
sampled again from their own seeds, with the same result. Several processes split the missing images.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from tskd_monai.data.transfer_set import (
    ENTRY,
    FORMAT_VERSION,
    MANIFEST_NAME,
    image_name,
    label_name,
    origin_of,
    progress_files,
    progress_name,
)
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import Fields, check_fields, parse_json, read_json, write_json
from tskd_monai.synthesis.pipeline_folder import unet_sha256
from tskd_monai.synthesis.sampling import ImageSampler, SampledImage
from tskd_monai.training.record import package_versions

logger = logging.getLogger(__name__)

SAMPLED_FIELDS = ("index", "sha256", "mask_sha256", "condition")
LINE: Fields = {
    "index": (int,),
    "sha256": (str,),
    "mask_sha256": (str, type(None)),
    "condition": (dict, type(None)),
}
ADVICE = "remove the transfer set's folder"


def write_transfer_set(
    output_dir: str | Path,
    sampler: ImageSampler,
    *,
    number: int,
    task_hash: str,
    pixdim: Sequence[float] | None = None,
    base_seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Samples the missing images and writes the manifest; returns the path of `transfer_set.json`.

    Args:
        output_dir: folder of the transfer set; one with the same settings is continued. Results of the gates are kept,
            unless images are added.
        sampler: sampler of the images.
        number: number of images; a later run may raise it.
        task_hash: hash of the task that the model was trained for.
        pixdim: spacing of the rows and columns in mm; None for images without a spacing.
        base_seed: image i has seed base_seed + i.
        provenance: further JSON values to record, such as the datalist's sha256.

    Raises:
        ValueError: when the folder holds images of other settings, or of unknown origin.
        OSError: when the disk is full; the next run keeps the images that are written.
    """
    if number < 1:
        raise ValueError(f"Expected number of images to be at least 1, found {number}.")
    output_dir = Path(output_dir)
    settings = {
        "format_version": FORMAT_VERSION,
        "task_hash": task_hash,
        "checkpoint_sha256": unet_sha256(sampler.unet),
        "pixdim": None if pixdim is None else [float(spacing) for spacing in pixdim],
        "base_seed": base_seed,
        **sampler.settings,
    }
    finished = _finished_images(output_dir, settings)
    missing = [index for index in range(number) if index not in finished]
    if not missing and _is_complete(output_dir, number):
        return output_dir / MANIFEST_NAME
    with _full_disk_explained(output_dir):
        _begin_progress(output_dir, settings, finished)
        _sample_shard(output_dir, sampler, missing[idist.get_rank() :: idist.get_world_size()], base_seed)
        idist.barrier()
        if idist.get_rank() == 0:
            finished = _finished_images(output_dir, settings)
            entries = [_entry(finished[index], base_seed, origin_of(settings)) for index in range(number)]
            content = {**settings, "provenance": {**(provenance or {}), "versions": package_versions()}}
            write_json(output_dir / MANIFEST_NAME, {**content, "unlabeled": entries})
            for path in progress_files(output_dir):
                path.unlink()
    return output_dir / MANIFEST_NAME


def _is_complete(output_dir: Path, number: int) -> bool:
    """Returns whether the manifest lists this many images and no later sampling has started."""
    manifest = output_dir / MANIFEST_NAME
    if not manifest.is_file() or progress_files(output_dir):
        return False
    return len(_listed(read_json(manifest), manifest)) == number


def _listed(content: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Returns the entries of a manifest, rejected ones included."""
    check_fields({"rejected": [], **content}, {"unlabeled": (list,), "rejected": (list,)}, str(path), ADVICE)
    entries = [*content["unlabeled"], *content.get("rejected", [])]
    for index, entry in enumerate(entries):
        check_fields(entry, ENTRY, f"{path}, entry {index}", ADVICE)
        check_fields(
            {"mask_sha256": None, **entry}, {"mask_sha256": (str, type(None))}, f"{path}, entry {index}", ADVICE
        )
    return entries


@contextmanager
def _full_disk_explained(output_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"Expected room for the transfer set in {output_dir}, found the disk full; free some and run the same "
            "command again, which resumes from here",
        ) from error


def _sample_shard(output_dir: Path, sampler: ImageSampler, indices: Sequence[int], base_seed: int) -> None:
    """Samples and writes the images of this process; the first process shows a progress bar."""
    images = sampler.sample([base_seed + index for index in indices])
    bar = tqdm(images, total=len(indices), desc="Transfer set", unit="image", disable=idist.get_rank() != 0)
    for index, sampled in zip(indices, bar, strict=True):
        line = _write_image(output_dir, index, sampled)
        with (output_dir / progress_name(idist.get_rank())).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _entry(sampled: Mapping[str, Any], base_seed: int, origin: str) -> dict[str, Any]:
    index = sampled["index"]
    entry = {
        "image": image_name(index),
        "case": f"{origin}_{index:06d}",
        "origin": origin,
        "seed": base_seed + index,
        "sha256": sampled["sha256"],
        "condition": sampled["condition"],
    }
    if sampled["mask_sha256"] is not None:
        entry |= {"label": label_name(index), "mask_sha256": sampled["mask_sha256"]}
    return entry


def _write_image(output_dir: Path, index: int, sampled: SampledImage) -> dict[str, Any]:
    """Writes an image as PNG, with its label map if it has one, and returns its line of the progress file."""
    mask_sha256 = None
    if sampled.condition.label is not None:
        mask_sha256 = _write_png(output_dir / label_name(index), sampled.condition.label.numpy())
    pixels = (sampled.image * 255).round().to(torch.uint8).numpy()
    sha256 = _write_png(output_dir / image_name(index), pixels)
    return {"index": index, "sha256": sha256, "mask_sha256": mask_sha256, "condition": sampled.condition.record}


def _write_png(path: Path, pixels: np.ndarray) -> str:
    """Writes pixels (1 or 3, H, W), uint8, and returns the file's sha256."""
    with atomic_path(path) as temporary:
        Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)).save(temporary)
    return file_sha256(path)


def _begin_progress(output_dir: Path, settings: Mapping[str, Any], finished: Mapping[int, Mapping[str, Any]]) -> None:
    """Rewrites the progress files: the first process's holds all finished images, the others start empty."""
    idist.barrier()  # until every process has read the previous files
    if idist.get_rank() == 0:
        _write_lines(output_dir / progress_name(0), [settings, *finished.values()])
        for path in progress_files(output_dir):
            if path.name != progress_name(0):
                path.unlink()
    idist.barrier()
    if idist.get_rank():
        _write_lines(output_dir / progress_name(idist.get_rank()), [settings])


def _write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _finished_images(output_dir: Path, settings: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Returns the lines, by index, of the intact images that earlier runs with the same settings wrote.

    Raises:
        ValueError: when earlier runs had other settings, or left images without a record.
    """
    recorded: dict[int, dict[str, Any]] = {}
    manifest, progress = output_dir / MANIFEST_NAME, progress_files(output_dir)
    if manifest.is_file():
        content = read_json(manifest)
        _check_settings(manifest, content, settings)
        for entry in _listed(content, manifest):
            index = entry["seed"] - content["base_seed"]
            recorded[index] = {name: entry.get(name) for name in SAMPLED_FIELDS} | {"index": index}
    for path in progress:
        header, *lines = _progress_lines(path)
        _check_settings(path, header, settings)
        for number, line in enumerate(lines, start=2):
            check_fields(line, LINE, f"{path}, line {number}", ADVICE)
        recorded.update((line["index"], line) for line in lines)
    if not manifest.is_file() and not progress and any(output_dir.glob("images/*.png")):
        raise ValueError(
            f"Expected {output_dir} to be new or a transfer set, found images without {MANIFEST_NAME}; "
            "choose another output_dir or remove them."
        )
    whole = {index: line for index, line in sorted(recorded.items()) if _is_whole(output_dir, line)}
    if len(whole) < len(recorded):
        logger.warning("%d images are missing or damaged and are sampled again.", len(recorded) - len(whole))
    return whole


def _is_whole(output_dir: Path, line: Mapping[str, Any]) -> bool:
    files = {image_name(line["index"]): line["sha256"]}
    if line["mask_sha256"] is not None:
        files[label_name(line["index"])] = line["mask_sha256"]
    paths = {output_dir / name: sha256 for name, sha256 in files.items()}
    return all(path.is_file() and file_sha256(path) == sha256 for path, sha256 in paths.items())


def _progress_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a progress file, without a truncated last one.

    Raises:
        ValueError: when another line is damaged.
    """
    try:
        *lines, rest = path.read_text(encoding="utf-8").split("\n")
        if rest:
            logger.warning("The last line of %s is truncated; its image is sampled again.", path.name)
        found = [parse_json(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"Expected JSON in every line of {path}: {error}. {ADVICE.capitalize()}.") from error
    if not found:
        raise ValueError(f"Expected the settings in the first line of {path}, found none. {ADVICE.capitalize()}.")
    return found


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
