"""The diffusion model on disk: a plain diffusers pipeline folder, and a record of the task it was trained for.

```
diffusion/
  model_index.json, unet/, scheduler/    DiffusionPipeline.from_pretrained("diffusion") loads them
  diffusion.json                         task_hash, image_size, channels, unet_sha256, versions, ...
```
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import DDPMPipeline, DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel

from tskd_monai.files.atomic import explained_writing
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.file_kind import refuse_other_kinds
from tskd_monai.files.json_files import Fields, check_fields, is_a, read_json, write_json
from tskd_monai.networks.weights_file import load_strictly, read_weights
from tskd_monai.synthesis.diffusion import NoiseScheduler, condition_of, patch_size_of
from tskd_monai.training.record import package_versions

logger = logging.getLogger(__name__)

RECORD_NAME = "diffusion.json"
WEIGHTS_NAME = "unet/diffusion_pytorch_model.safetensors"
CONFIG_NAME = "unet/config.json"
SCHEDULER_CONFIG_NAME = "scheduler/scheduler_config.json"
ADVICE = "train again"
MAX_TIMESTEPS = 100_000
"""Upper limit of the noise levels, which are held in memory; 1000 are usual."""

REQUIRED_KEYS = ("task_hash", "image_size", "channels")
RECORD_FIELDS: Fields = {"task_hash": (str,), "image_size": (list,), "channels": (int,), "unet_sha256": (str,)}
NOISE_SCHEDULERS: dict[str, type[NoiseScheduler]] = {
    kind.__name__: kind for kind in (DDPMScheduler, FlowMatchEulerDiscreteScheduler)
}


@dataclass(frozen=True)
class DiffusionModel:
    """A saved diffusion model.

    Args:
        unet: on the CPU, in evaluation mode.
        noise_scheduler: noise schedule of the training run.
        record: content of `diffusion.json`.
    """

    unet: UNet2DModel
    noise_scheduler: NoiseScheduler
    record: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the sampled images."""
        height, width = self.record["image_size"]
        return self.record["channels"], height, width


def unet_sha256(unet: UNet2DModel) -> str:
    """Returns the hex sha256 of the weights file that `save_diffusion_pipeline` writes for this U-Net."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in unet.state_dict().items()}
    return hashlib.sha256(safetensors.torch.save(weights, metadata={"format": "pt"})).hexdigest()


def save_diffusion_pipeline(
    folder: str | Path, unet: UNet2DModel, noise_scheduler: NoiseScheduler, record: Mapping[str, Any]
) -> Path:
    """Writes the pipeline folder under a temporary name, renames it, and returns its path.

    Args:
        folder: replaced as a whole when it exists.
        unet: U-Net with the weights to sample from.
        noise_scheduler: noise schedule of the training run.
        record: JSON values, at least task_hash, image_size (H, W) and channels.

    Raises:
        ValueError: when the record lacks a key or does not fit the U-Net.
        OSError: when disk space or permission is missing; the previous folder is kept.
    """
    if missing := [key for key in REQUIRED_KEYS if key not in record]:
        raise ValueError(f"Expected {', '.join(REQUIRED_KEYS)} in the diffusion record, missing: {', '.join(missing)}.")
    patch_size = patch_size_of(unet, (record["channels"], *record["image_size"]))
    folder = Path(folder)
    new = _sibling(folder, "new")
    shutil.rmtree(new, ignore_errors=True)
    with _removed_afterwards(new), explained_writing(folder, new / "probe"):
        DDPMPipeline(unet=unet, scheduler=noise_scheduler).save_pretrained(new)
        content = {
            **record,
            "image_size": list(record["image_size"]),
            "patch_size": patch_size,
            "condition": condition_of(unet),
            "unet_sha256": file_sha256(new / WEIGHTS_NAME),
            "versions": package_versions(),
        }
        write_json(new / RECORD_NAME, content)
        _replace_folder(new, folder)
    return folder


def load_diffusion_pipeline(folder: str | Path, task_hash: str) -> DiffusionModel:
    """Returns the diffusion model of a folder.

    Args:
        folder: written by `save_diffusion_pipeline`.
        task_hash: hash of the task that images are sampled for.

    Raises:
        FileNotFoundError: when the folder or one of its files is missing.
        ValueError: when it is of another task, its weights differ from the record's sha256, or a file is damaged.
    """
    folder = Path(folder)
    _recover(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a diffusion model in {folder}, found no such folder; train one first.")
    record = read_json(folder / RECORD_NAME)
    _check_record(folder, record, task_hash)
    return DiffusionModel(unet=_load_unet(folder, record), noise_scheduler=_load_scheduler(folder), record=record)


def _load_unet(folder: Path, record: Mapping[str, Any]) -> UNet2DModel:
    """Returns the U-Net in evaluation mode; it is built only after its config was checked against the weights."""
    path = folder / CONFIG_NAME
    weights = read_weights(folder / WEIGHTS_NAME)
    config = read_json(path)
    check_fields(config, {"layers_per_block": (int,)}, str(path), ADVICE)
    try:
        if not 0 < config["layers_per_block"] <= len(weights):
            raise ValueError(f"layers_per_block of {config['layers_per_block']} and {len(weights)} weights")
        with torch.device("meta"):
            outline = UNet2DModel.from_config(config)
        patch_size_of(outline, (record["channels"], *record["image_size"]))
    except Exception as error:  # diffusers raises many types for inconsistent settings
        raise ValueError(f"Expected a U-Net for the images of {RECORD_NAME} in {path}: {error}; {ADVICE}.") from error
    expected = {name: value.shape for name, value in outline.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(
            f"Expected the weights in {folder / WEIGHTS_NAME} to fit its config.json, they differ: {wrong[:5]}."
        )
    unet = UNet2DModel.from_config(config)
    load_strictly(unet, weights, folder / WEIGHTS_NAME)
    return unet.eval()


def _load_scheduler(folder: Path) -> NoiseScheduler:
    path = folder / SCHEDULER_CONFIG_NAME
    config = read_json(path)
    check_fields(config, {"_class_name": (str,), "num_train_timesteps": (int,)}, str(path), ADVICE)
    if config["_class_name"] not in NOISE_SCHEDULERS:
        raise ValueError(
            f"Expected _class_name in {path} to be one of {', '.join(NOISE_SCHEDULERS)}, found "
            f"{config['_class_name']!r}; train again."
        )
    if not 0 < config["num_train_timesteps"] <= MAX_TIMESTEPS:
        raise ValueError(
            f"Expected num_train_timesteps in {path} of 1 to {MAX_TIMESTEPS}, found {config['num_train_timesteps']}; "
            f"{ADVICE}."
        )
    try:
        return NOISE_SCHEDULERS[config["_class_name"]].from_config(config)
    except Exception as error:  # diffusers raises many types for inconsistent settings
        raise ValueError(f"Expected the settings of a noise schedule in {path}: {error}; {ADVICE}.") from error


def _check_record(folder: Path, record: Any, task_hash: str) -> None:
    path = folder / RECORD_NAME
    check_fields(record, RECORD_FIELDS, str(path), ADVICE)
    size = record["image_size"]
    if len(size) != 2 or not all(is_a(side, int) and side > 0 for side in size) or record["channels"] < 1:
        raise ValueError(
            f"Expected channels and image_size (H, W) in {path}, found {record['channels']} and {size}; {ADVICE}."
        )
    if record["task_hash"] != task_hash:
        raise ValueError(
            f"Expected a diffusion model of task {task_hash} in {folder}, found one of task {record['task_hash']}; "
            "train one for this task, or give the folder of the right one."
        )
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise FileNotFoundError(f"Expected the diffusion model's weights at {weights}, found none; train again.")
    refuse_other_kinds(weights)
    if (found := file_sha256(weights)) != record["unet_sha256"]:
        raise ValueError(
            f"Expected {weights} to have sha256 {record['unet_sha256']}, found {found}: "
            "the file is damaged or was replaced; train again."
        )


def _sibling(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{role}")


@contextmanager
def _removed_afterwards(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace_folder(new: Path, folder: Path) -> None:
    """Renames `new` to `folder`; after a kill in between, `_recover` finds the previous folder."""
    _recover(folder)
    old = _sibling(folder, "old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Restores the previous folder after a kill between the two renames of `_replace_folder`."""
    old = _sibling(folder, "old")
    if old.is_dir() and not folder.exists():
        logger.warning("Saving %s was interrupted; the model saved before is used.", folder.name)
        old.replace(folder)
