"""The end of a diffusion model's training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler

from tskd_monai.data.task import Task
from tskd_monai.synthesis.ema import EmaHandler
from tskd_monai.synthesis.pipeline_folder import save_diffusion_pipeline
from tskd_monai.training.history import TrainingHistory
from tskd_monai.training.record import write_record
from tskd_monai.training.samplers import process_rank


def finish_diffusion(
    ema: EmaHandler,
    noise_scheduler: DDPMScheduler,
    history: TrainingHistory,
    output_dir: str | Path,
    task: Task,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    """Writes the averaged model as the diffusers folder `pipeline`, and `record.json`.

    Args:
        ema: follows the trained network.
        noise_scheduler: of the training.
        history: of the training.
        output_dir: of the stage.
        task: whose images it makes.
        settings: for the record.
        inputs: files for the record, by name.
    """
    if process_rank():
        return
    network = ema.averaged_network()
    record = {"task_hash": task.hash, "image_size": list(task.image_size), "channels": task.channels}
    save_diffusion_pipeline(Path(output_dir) / "pipeline", network, noise_scheduler, record)
    results = {
        "seconds": history.rows[-1]["seconds"],
        "train_loss": history.rows[-1]["train_loss"],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    write_record(Path(output_dir) / "record.json", "diffusion_synthesis", settings, inputs, results)
