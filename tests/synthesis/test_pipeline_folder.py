from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, UNet2DModel

from tskd_monai.files.checksum import file_sha256
from tskd_monai.synthesis import pipeline_folder
from tskd_monai.synthesis.diffusion import build_noise_scheduler, build_unet
from tskd_monai.synthesis.pipeline_folder import (
    load_diffusion_pipeline,
    save_diffusion_pipeline,
    unet_sha256,
)

TASK = "a" * 64
RECORD: dict[str, Any] = {"task_hash": TASK, "image_size": (16, 16), "channels": 1}


@pytest.fixture
def folder(tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> Path:
    return save_diffusion_pipeline(tmp_path / "diffusion", unet, noise_scheduler, RECORD)


def test_weights_schedule_and_record_come_back(folder: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    model = load_diffusion_pipeline(folder, TASK)
    assert all(torch.equal(unet.state_dict()[name], value) for name, value in model.unet.state_dict().items())
    assert torch.equal(model.noise_scheduler.betas, noise_scheduler.betas)
    assert model.noise_scheduler.config.prediction_type == "v_prediction"
    assert model.image_shape == (1, 16, 16)
    assert model.record["patch_size"] == 2
    assert model.record["unet_sha256"] == unet_sha256(unet) == unet_sha256(model.unet)
    assert [path.name for path in folder.parent.iterdir()] == ["diffusion"]


def test_plain_diffusers_loads_and_runs_it(folder: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 8, 8, 4)


def test_model_of_another_task_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=f"of task {'b' * 64} in .*diffusion, found one of task {TASK}"):
        load_diffusion_pipeline(folder, "b" * 64)


def test_damaged_weights_are_refused(folder: Path) -> None:
    weights = folder / pipeline_folder.WEIGHTS_NAME
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="the file is damaged or was replaced"):
        load_diffusion_pipeline(folder, TASK)


def test_a_pointer_instead_of_weights_is_named(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8\n")
    with pytest.raises(ValueError, match=r"Expected weights in .*safetensors, found a Git LFS pointer.*git lfs pull"):
        load_diffusion_pipeline(folder, TASK)


def test_a_missing_folder_and_missing_weights_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Expected a diffusion model in .*nowhere"):
        load_diffusion_pipeline(tmp_path / "nowhere", TASK)
    (folder / pipeline_folder.WEIGHTS_NAME).unlink()
    with pytest.raises(FileNotFoundError, match="Expected the diffusion model's weights at"):
        load_diffusion_pipeline(folder, TASK)


def test_record_must_be_complete_and_fit(tmp_path: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    with pytest.raises(ValueError, match="missing: task_hash, channels"):
        save_diffusion_pipeline(tmp_path / "diffusion", unet, noise_scheduler, {"image_size": (16, 16)})
    with pytest.raises(ValueError, match="found one whose output is"):
        save_diffusion_pipeline(tmp_path / "diffusion", unet, noise_scheduler, {**RECORD, "image_size": (32, 32)})


def test_saving_again_replaces_the_whole_folder(folder: Path, noise_scheduler: DDPMScheduler) -> None:
    (folder / "stale.txt").write_text("stale")
    save_diffusion_pipeline(
        folder, build_unet((32, 32), 1, (8, 8)), noise_scheduler, {**RECORD, "image_size": (32, 32)}
    )
    assert not (folder / "stale.txt").exists()
    assert load_diffusion_pipeline(folder, TASK).image_shape == (1, 32, 32)


def test_a_kill_while_saving_leaves_the_former_model(
    folder: Path, noise_scheduler: DDPMScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((folder / "diffusion.json").read_text())
    move = Path.replace

    def move_but_die(self: Path, target: Path) -> Path:
        if self.name == ".diffusion.new":
            raise KeyboardInterrupt
        return move(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", move_but_die)
        with pytest.raises(KeyboardInterrupt):
            save_diffusion_pipeline(folder, build_unet((16, 16), 1, (8, 8)), noise_scheduler, RECORD)
    assert not folder.exists()
    assert load_diffusion_pipeline(folder, TASK).record == before


def test_a_flow_comes_back_and_plain_diffusers_runs_it(tmp_path: Path, unet: UNet2DModel) -> None:
    folder = save_diffusion_pipeline(tmp_path / "flow", unet, build_noise_scheduler("flow"), RECORD)
    model = load_diffusion_pipeline(folder, TASK)
    assert isinstance(model.noise_scheduler, FlowMatchEulerDiscreteScheduler)
    assert model.record["condition"] == "none"
    DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("FlowMatchEulerDiscreteScheduler", "UnknownScheduler"))
    with pytest.raises(ValueError, match="_class_name in .*scheduler_config.json .* found 'UnknownScheduler'"):
        load_diffusion_pipeline(folder, TASK)


def test_a_full_disk_is_named_and_the_former_model_stays(
    folder: Path, unet: UNet2DModel, noise_scheduler: DDPMScheduler, small_files: None
) -> None:
    with pytest.raises(OSError, match="room and permission to write diffusion, found: File too large; free some space"):
        save_diffusion_pipeline(folder, unet, noise_scheduler, {**RECORD, "task_hash": "b" * 64})
    assert load_diffusion_pipeline(folder, TASK).record["task_hash"] == TASK
    assert [path.name for path in folder.parent.iterdir()] == ["diffusion"]


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "unet/config.json",
            {"layers_per_block": 10**9},
            r"a U-Net .* in .*config\.json: layers_per_block of 1000000000",
        ),
        ("unet/config.json", {"layers_per_block": None}, r"Expected layers_per_block in .*config\.json to be int"),
        ("unet/config.json", {"block_out_channels": 8}, r"Expected a U-Net for the images .* in .*config\.json"),
        ("unet/config.json", {"down_block_types": ["A", "B"]}, r"Expected a U-Net for the images .* in .*config\.json"),
        ("unet/config.json", {"block_out_channels": [2**20, 2**21]}, "to fit its config.json, they differ"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "num_train_timesteps .* of 1 to 100000"),
        ("scheduler/scheduler_config.json", {"beta_schedule": []}, r"a noise schedule in .*scheduler_config\.json"),
        ("diffusion.json", {"image_size": [16]}, r"Expected channels and image_size \(H, W\) in .*diffusion\.json"),
        ("diffusion.json", {"image_size": "16"}, r"Expected image_size in .*diffusion\.json to be list"),
        ("diffusion.json", {"channels": True}, r"Expected channels in .*diffusion\.json to be int, found True"),
        ("diffusion.json", {"image_size": [32, 32]}, "Expected a U-Net for the images of diffusion.json"),
    ],
)
def test_settings_that_build_nothing_are_refused_by_file(
    folder: Path, name: str, values: dict[str, Any], message: str
) -> None:
    change(folder / name, **values)
    with pytest.raises(ValueError, match=message) as raised:
        load_diffusion_pipeline(folder, TASK)
    assert type(raised.value) is ValueError


def test_damaged_weights_with_their_own_sha256_are_refused(folder: Path) -> None:
    weights = folder / pipeline_folder.WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:200])
    change(folder / "diffusion.json", unet_sha256=file_sha256(weights))
    with pytest.raises(ValueError, match=r"Expected weights in .*safetensors, found a file that is damaged"):
        load_diffusion_pipeline(folder, TASK)
