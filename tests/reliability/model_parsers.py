"""Parsers of stored networks: weights, cached targets, folders of teachers, students, diffusion models."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.reliability.json_parsers import HASH, TASK
from tests.reliability.subject import Case, Subject, require
from tests.support.paths import ROOT
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.transfer_set import MANIFEST_NAME, image_name, progress_name
from tskd_monai.distillation.target_cache import QuantisedTarget, TargetCache
from tskd_monai.distillation.teachers import load_any_teacher
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import write_json
from tskd_monai.networks.students import build_student
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.teacher_folder import load_teacher, save_teacher
from tskd_monai.networks.weights_file import read_weights
from tskd_monai.synthesis.diffusion import build_noise_scheduler, build_unet
from tskd_monai.synthesis.pipeline_folder import (
    WEIGHTS_NAME,
    load_diffusion_pipeline,
    save_diffusion_pipeline,
    unet_sha256,
)
from tskd_monai.synthesis.transfer_set_writer import write_transfer_set
from tskd_monai.training.checkpoint import load_checkpoint, save_checkpoint

TEMPLATE = ROOT / "bundles" / "segmentation"
STUDENT = "compact_unet_small"
IMAGE = torch.linspace(0, 1, 64).reshape(1, 8, 8)


class _Teacher(nn.Linear):
    """A network with weights, for which a cache can be made."""

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor | None, Tensor]:
        """Is never called."""
        raise NotImplementedError


@cache
def _cache(folder: Path) -> TargetCache:
    torch.manual_seed(0)
    return TargetCache(folder, _Teacher(2, 2), TASK)


def _write_cache(folder: Path) -> list[Case]:
    generator = torch.Generator().manual_seed(0)
    foreground = torch.randint(0, 256, (2, 8, 8), dtype=torch.uint8, generator=generator)
    cached = _cache(folder)
    cached.write(IMAGE, QuantisedTarget(foreground, torch.rand(4, 2, 2, generator=generator).half()))
    return [Case(folder, (cached.path(IMAGE).name,))]


def _read_cache(folder: Path) -> None:
    target = _cache(folder).read(IMAGE)
    if target is not None:
        kinds = (target.foreground.dtype, target.foreground.ndim, target.features.dtype, target.features.ndim)
        require(kinds == (torch.uint8, 3, torch.float16, 3), f"a target is {kinds}")


def _weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {**nn.Linear(3, 2).state_dict(), "steps": torch.tensor(7), "half": torch.ones(2, 2).half()}


def _write_weights(folder: Path) -> list[Case]:
    for name in ("pickle", "legacy", "tensors"):
        (folder / name).mkdir()
    torch.save(_weights(), folder / "pickle" / "model.pt")
    torch.save(_weights(), folder / "legacy" / "model.pth", _use_new_zipfile_serialization=False)
    save_file(_weights(), folder / "tensors" / "model.safetensors")
    return [Case(path.parent, (path.name,)) for path in sorted(folder.glob("*/*"))]


def _read_weights(folder: Path) -> None:
    (path,) = folder.iterdir()
    found = read_weights(path)
    require(all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()), "no tensors")


def _write_checkpoint(folder: Path) -> list[Case]:
    network = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(3)).sum().backward()
    optimiser.step()
    content = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "task_hash": HASH}
    save_checkpoint({**content, "progress": {"epoch": 3, "iteration": 30}}, folder / "last.pt")
    return [Case(folder, ("last.pt",))]


def _write_teacher(folder: Path) -> list[Case]:
    cases = []
    for decoder in ("light", "sam"):
        teacher = build_teacher(
            encoder="sam_demo", encoder_weights="random", image_size=(32, 48), num_classes=3, decoder=decoder,
            decoder_lora=decoder == "sam", rank=2,
        )  # fmt: skip
        home = folder / f"{decoder}_teacher"
        save_teacher(teacher, home, task_hash=HASH, record={"val_mean_dice": 0.5})
        others = [path.relative_to(home).as_posix() for path in sorted(home.rglob("*.*")) if path.is_file()]
        cases.append(Case(home, ("teacher.json", *others)))
    return cases


def _reseal_teacher(folder: Path, name: str) -> None:
    """Writes the mutated file's SHA-256 into the record, as a deliberate change would."""
    if name != "teacher.json":
        record = json.loads((folder / "teacher.json").read_text())
        record["files"][name] = file_sha256(folder / name)
        write_json(folder / "teacher.json", record)


def _read_teacher(folder: Path) -> None:
    require(not load_teacher(folder, task_hash=HASH).training, "the teacher trains")


def _write_student(folder: Path) -> list[Case]:
    torch.manual_seed(0)
    weights = build_student(STUDENT, 1, TASK.num_classes, TASK.image_size).state_dict()
    write_student_bundle(TEMPLATE, folder / "student", TASK, STUDENT, weights)
    return [Case(folder / "student", ("configs/task.json", "configs/inference.json", "models/model.pt"))]


def _read_student(folder: Path) -> None:
    load_any_teacher(folder, TASK)


def _write_diffusion(folder: Path) -> list[Case]:
    torch.manual_seed(0)
    unet = build_unet((16, 16), 1, (8, 16), patch_size=2)
    record = {"task_hash": HASH, "image_size": [16, 16], "channels": 1}
    save_diffusion_pipeline(folder / "diffusion", unet, build_noise_scheduler(), record)
    files = ("diffusion.json", "scheduler/scheduler_config.json", "unet/config.json", WEIGHTS_NAME)
    return [Case(folder / "diffusion", files)]


def _reseal_diffusion(folder: Path, name: str) -> None:
    if name == WEIGHTS_NAME:
        record = json.loads((folder / "diffusion.json").read_text())
        write_json(folder / "diffusion.json", {**record, "unet_sha256": file_sha256(folder / name)})


def _read_diffusion(folder: Path) -> None:
    channels, height, width = load_diffusion_pipeline(folder, HASH).image_shape
    require({type(channels), type(height), type(width)} == {int}, "an image has no shape")


class _Sampler:
    """Replaces a sampler until an image is requested: by then all files have been read."""

    settings: Mapping[str, Any] = {"image_size": [16, 16], "channels": 1, "sampler": "ddim", "num_inference_steps": 2,
                                   "batch_size": 2, "condition": {"kind": "none"}}  # fmt: skip

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.unet = nn.Linear(2, 2)

    def sample(self, seeds: Sequence[int]) -> Iterator[Any]:
        """Ends the sampling."""
        raise _AskedError


class _AskedError(Exception):
    """Images were requested from a sampler."""


def _write_progress(folder: Path) -> list[Case]:
    settings = {"format_version": 2, "task_hash": HASH, "checkpoint_sha256": unet_sha256(_Sampler().unet),
                "pixdim": None, "base_seed": 0, **_Sampler.settings}  # fmt: skip
    stopped, finished = folder / "stopped", folder / "finished"
    lines, entries = [settings], []
    for index in range(2):
        for home in (stopped, finished):
            (home / "images").mkdir(parents=True, exist_ok=True)
            (home / image_name(index)).write_bytes(bytes([index]))
        sampled = {"sha256": file_sha256(stopped / image_name(index)), "mask_sha256": None, "condition": None}
        lines.append({"index": index, **sampled})
        case = {"image": image_name(index), "case": f"synthetic_{index}", "origin": "synthetic", "seed": index}
        entries.append({**case, **sampled})
    (stopped / progress_name(0)).write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(finished / MANIFEST_NAME, {**settings, "unlabeled": entries})
    return [Case(stopped, (progress_name(0),)), Case(finished, (MANIFEST_NAME,))]


def _read_progress(folder: Path) -> None:
    with contextlib.suppress(_AskedError):
        write_transfer_set(folder, cast(Any, _Sampler()), number=3, task_hash=HASH)


SUBJECTS = (
    Subject("target cache", 10_000, _write_cache, _read_cache),
    Subject("weights", 10_000, _write_weights, _read_weights),
    Subject("checkpoint", 3_000, _write_checkpoint, lambda folder: load_checkpoint(folder / "last.pt")),
    Subject(
        "teacher folder", 1_000, _write_teacher, _read_teacher, folder_is_input=True, reseal=_reseal_teacher
    ),
    Subject("student bundle", 2_000, _write_student, _read_student, folder_is_input=True),
    Subject(
        "diffusion folder", 1_000, _write_diffusion, _read_diffusion, folder_is_input=True,
        reseal=_reseal_diffusion,
    ),
    Subject("sampling progress", 3_000, _write_progress, _read_progress),
)  # fmt: skip
