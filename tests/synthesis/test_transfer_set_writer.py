from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image

from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.data.transfer_set import load_transfer_set
from tskd_monai.synthesis.diffusion import build_unet
from tskd_monai.synthesis.pipeline_folder import unet_sha256
from tskd_monai.synthesis.sampling import ImageSampler, SampledImage
from tskd_monai.synthesis.transfer_set_writer import write_transfer_set

TASK = "a" * 64


def write(folder: Path, unet: UNet2DModel, scheduler: DDPMScheduler, **changes: Any) -> Path:
    settings: dict[str, Any] = {"number": 5, "task_hash": TASK, "pixdim": (1.5, 1.5), "base_seed": 7}
    sampling: dict[str, Any] = {"image_shape": (1, 16, 16), "batch_size": 2, "num_inference_steps": 2}
    for name, value in changes.items():
        (settings if name in settings else sampling)[name] = value
    return write_transfer_set(folder, ImageSampler(unet, scheduler, **sampling), **settings)


def stop_after(monkeypatch: pytest.MonkeyPatch, images: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """Stops the writer, as a kill would, at image number `images`."""
    sample = ImageSampler.sample

    def few(self: ImageSampler, seeds: Sequence[int]) -> Iterator[SampledImage]:
        for count, item in enumerate(sample(self, seeds)):
            if count == images:
                raise error
            yield item

    monkeypatch.setattr(ImageSampler, "sample", few)


def count_sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list to which every seed sampled from now on is added."""
    sampled: list[int] = []
    sample = ImageSampler.sample

    def counted(self: ImageSampler, seeds: Sequence[int]) -> Iterator[SampledImage]:
        sampled.extend(seeds)
        return sample(self, seeds)

    monkeypatch.setattr(ImageSampler, "sample", counted)
    return sampled


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def complete(tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> Path:
    return write(tmp_path / "complete", unet, noise_scheduler).parent


def test_list_and_images_agree(complete: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    entries = load_transfer_set(complete, TASK)
    content = json.loads((complete / "transfer_set.json").read_text())
    assert [entry["seed"] for entry in entries] == [7, 8, 9, 10, 11]
    assert content["checkpoint_sha256"] == unet_sha256(unet)
    assert content["pixdim"] == [1.5, 1.5]
    assert set(contents(complete)) == {"transfer_set.json", *(f"images/00000{index}.png" for index in range(5))}
    (sampled,) = ImageSampler(unet, noise_scheduler, (1, 16, 16), batch_size=2, num_inference_steps=2).sample([9])
    expected = (sampled.image[0] * 255).round().numpy()
    with Image.open(entries[2]["image"]) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), expected)


def test_colour_images_are_rgb(tmp_path: Path, noise_scheduler: DDPMScheduler) -> None:
    unet = build_unet((16, 32), 3, (8, 8))
    path = write(tmp_path / "set", unet, noise_scheduler, number=1, image_shape=(3, 16, 32), pixdim=None)
    with Image.open(load_transfer_set(path, TASK)[0]["image"]) as image:
        assert image.mode == "RGB"
        assert image.size == (32, 16)


@pytest.mark.parametrize("images", [0, 3])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    complete: Path,
    tmp_path: Path,
    unet: UNet2DModel,
    noise_scheduler: DDPMScheduler,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
) -> None:
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stop_after(patch, images)
        with pytest.raises(KeyboardInterrupt):
            write(folder, unet, noise_scheduler)
    assert not (folder / "transfer_set.json").exists()
    progress = folder / "transfer_set.progress-0.jsonl"
    progress.write_text(progress.read_text() + '{"index": 4, "sha')
    seeds = count_sampled(monkeypatch)
    write(folder, unet, noise_scheduler)
    assert seeds == [7, 8, 9, 10, 11][images:]
    assert contents(folder) == contents(complete)


def test_damaged_and_missing_images_are_sampled_again(
    complete: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(complete)
    (complete / "images/000001.png").write_bytes(before["images/000001.png"][:-20])
    (complete / "images/000003.png").unlink()
    seeds = count_sampled(monkeypatch)
    write(complete, unet, noise_scheduler)
    assert seeds == [8, 10]
    assert contents(complete) == before


def test_a_complete_set_is_left_and_can_grow(
    complete: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(complete)
    seeds = count_sampled(monkeypatch)
    write(complete, unet, noise_scheduler)
    assert seeds == []
    assert contents(complete) == before
    write(complete, unet, noise_scheduler, number=6)
    assert seeds == [12]
    assert len(load_transfer_set(complete, TASK)) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_hash": "b" * 64}, f"task_hash differ: task_hash is '{TASK}' there and 'bbb"),
        ({"base_seed": 0}, "base_seed differ: base_seed is 7 there and 0 now"),
        ({"sampler": "ddim", "num_inference_steps": 3}, "sampler, num_inference_steps differ"),
        ({"pixdim": None}, "pixdim differ"),
    ],
)
def test_another_runs_folder_is_refused_and_left(
    complete: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler, changes: dict[str, Any], message: str
) -> None:
    before = contents(complete)
    with pytest.raises(ValueError, match=message):
        write(complete, unet, noise_scheduler, **changes)
    assert contents(complete) == before


def test_another_models_begun_folder_is_refused(
    tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "set", unet, noise_scheduler)
    torch.manual_seed(1)
    other = build_unet((16, 16), 1, (8, 16), patch_size=2)
    with pytest.raises(ValueError, match=r"progress-0.jsonl to continue .* checkpoint_sha256 differ"):
        write(tmp_path / "set", other, noise_scheduler)


def test_images_of_unknown_origin_are_refused(
    tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/photo.png").write_bytes(b"not ours")
    with pytest.raises(ValueError, match="found images without transfer_set.json"):
        write(tmp_path, unet, noise_scheduler)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        write(tmp_path / "set", unet, noise_scheduler, number=0)


def test_a_full_disk_is_explained_and_nothing_is_lost(
    complete: Path, tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "full"
    with monkeypatch.context() as patch:
        save = Image.Image.save

        def save_until_full(image: Image.Image, path: Path, *args: Any, **kwargs: Any) -> None:
            if "000003" in str(path):
                Path(path).write_bytes(b"half an image")
                raise OSError(errno.ENOSPC, "No space left on device")
            save(image, path, *args, **kwargs)

        patch.setattr(Image.Image, "save", save_until_full)
        with pytest.raises(OSError, match="found the disk full; free some and run the same command again"):
            write(folder, unet, noise_scheduler)
    assert sorted(path.name for path in (folder / "images").iterdir()) == [f"00000{index}.png" for index in range(3)]
    seeds = count_sampled(monkeypatch)
    write(folder, unet, noise_scheduler)
    assert seeds == [10, 11]
    assert contents(folder) == contents(complete)


def test_gated_images_are_kept_and_growing_forgets_the_gates(
    complete: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = complete / "transfer_set.json"
    content = json.loads(path.read_text())
    content["rejected"] = [{**content["unlabeled"].pop(1), "reasons": ["near_copy"]}]
    path.write_text(json.dumps(content))
    seeds = count_sampled(monkeypatch)
    write(complete, unet, noise_scheduler)
    assert json.loads(path.read_text()) == content
    write(complete, unet, noise_scheduler, number=6)
    assert seeds == [12]
    assert "rejected" not in json.loads(path.read_text())
    assert len(load_transfer_set(complete, TASK)) == 6


@pytest.mark.slow
def test_processes_partition_the_images(tmp_path: Path) -> None:
    script = tmp_path / "sample.py"
    script.write_text(SHARED_SAMPLING)
    command = [python_command(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    alone = subprocess.run([python_command(), str(script), "alone"], env=environment, cwd=tmp_path, timeout=200)
    together = subprocess.run([*command, "together"], env=environment, cwd=tmp_path, timeout=200)
    assert alone.returncode == together.returncode == 0
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")


SHARED_SAMPLING = """
import os, sys, torch
from tskd_monai.synthesis.diffusion import build_noise_scheduler, build_unet
from tskd_monai.synthesis.sampling import ImageSampler
from tskd_monai.synthesis.transfer_set_writer import write_transfer_set
from tskd_monai.training.distributed import start_process_group, stop_process_group

torch.manual_seed(0)
sampler = ImageSampler(build_unet((16, 16), 1, (8, 16), patch_size=2), build_noise_scheduler(), (1, 16, 16), 2, 2)
if "RANK" in os.environ:
    start_process_group()
write_transfer_set(sys.argv[1], sampler, number=7, task_hash="a" * 64)
if "RANK" in os.environ:
    stop_process_group()
"""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[]"], r"line 2 .*progress-0\.jsonl|progress-0\.jsonl, line 2"),
        (['{"index": 0}'], r"Expected sha256 in .*progress-0\.jsonl, line 2, found none"),
        (['{"index": "0", "sha256": "a"}'], r"Expected index in .*progress-0\.jsonl, line 2 to be int"),
        (["[" * 100_000], r"Expected JSON in every line of .*progress-0\.jsonl: nested too deeply"),
    ],
)
def test_progress_of_another_kind_is_refused_by_line(
    tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler, monkeypatch, lines: list[str], message: str
) -> None:
    stop_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, unet, noise_scheduler)
    (path,) = tmp_path.glob("*.jsonl")
    path.write_text(path.read_text() + "".join(f"{line}\n" for line in lines))
    with pytest.raises(ValueError, match=message):
        write(tmp_path, unet, noise_scheduler)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n"])
def test_progress_that_is_no_text_is_refused(
    tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler, content: bytes
) -> None:
    (tmp_path / "transfer_set.progress-0.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"progress-0\.jsonl.*[Rr]emove the transfer set's folder"):
        write(tmp_path, unet, noise_scheduler)


def test_a_list_with_an_entry_of_another_kind_is_refused(
    tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler
) -> None:
    path = write(tmp_path, unet, noise_scheduler, number=2)
    content = json.loads(path.read_text())
    del content["unlabeled"][1]["sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"Expected sha256 in .*transfer_set\.json, entry 1, found none"):
        write(tmp_path, unet, noise_scheduler, number=3)
