from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel

from tskd_monai.data.atomic import read_json
from tskd_monai.data.task import Task
from tskd_monai.synthesis.diffusion import build_unet
from tskd_monai.synthesis.ema import EmaHandler
from tskd_monai.synthesis.pipeline_folder import load_diffusion_pipeline
from tskd_monai.synthesis.training import finish_diffusion
from tskd_monai.training.history import TrainingHistory


def test_averaged_weights_are_what_is_kept(
    tmp_path: Path, noise_scheduler: DDPMScheduler, make_task: Callable[..., Task]
) -> None:
    task = make_task(image_size=(16, 16))
    unet = build_unet(task.image_size, task.channels, (8, 8))
    ema = EmaHandler(EMAModel(unet.parameters(), decay=0.5), unet)
    with torch.no_grad():
        unet.conv_out.bias.fill_(4.0)
    history = TrainingHistory(tmp_path / "history.jsonl", torch.optim.SGD(unet.parameters(), lr=0.1))
    history.load_state_dict({"rows": [{"epoch": 1, "seconds": 2.5, "train_loss": 0.25}]})
    finish_diffusion(ema, noise_scheduler, history, tmp_path, task, {"seed": 0}, {})
    saved = load_diffusion_pipeline(tmp_path / "pipeline", task.hash).unet.state_dict()["conv_out.bias"]
    assert torch.equal(saved, ema.averaged_network().state_dict()["conv_out.bias"])
    assert not torch.equal(saved, unet.state_dict()["conv_out.bias"])
    results = read_json(tmp_path / "record.json")["results"]
    assert results["seconds"] == 2.5 and results["train_loss"] == 0.25
