"""Compares few steps of DPM-Solver++ with many of DDIM on one diffusion model: images per second and kernel distance.

Both sample the same seeds, in interleaved batches, and are compared with the same draws of validation images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tskd_monai.data.datalist import load_section, transfer_images
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Task, load_task
from tskd_monai.files.json_files import write_json
from tskd_monai.synthesis.compared_images import nonblank_images
from tskd_monai.synthesis.gate_networks import GateEncoder, gate_encoder
from tskd_monai.synthesis.gates import KID_SUBSET_SIZE, KID_SUBSETS
from tskd_monai.synthesis.pipeline_folder import DiffusionModel, load_diffusion_pipeline
from tskd_monai.synthesis.realism import feature_scale, kernel_distances, spread
from tskd_monai.synthesis.sampling import ImageSampler
from tskd_monai.transforms.pipelines import training_preprocessing

METHODS = {"dpmsolver++": 20, "ddim": 250}
BATCH_SIZE = 16
KEYS = ["image"]


def measure(model: DiffusionModel, task: Task, datalist: Path, encoder: GateEncoder, number: int) -> dict[str, Any]:
    """Returns rates and kernel distances of both methods on seeds 0 to `number` - 1, and the distances' difference."""
    shape = (int(model.record["channels"]), *task.image_size)
    samplers = {
        name: ImageSampler(model.unet, model.noise_scheduler, shape, BATCH_SIZE, steps, name)
        for name, steps in METHODS.items()
    }
    training, validation = (
        encoder.features(nonblank_images(SliceDataset(entries, training_preprocessing(task, KEYS), keys=KEYS)).pixels)
        for entries in (transfer_images(datalist), load_section(datalist, "validation"))
    )
    images, seconds = sample_in_turn(samplers, number)
    scale = feature_scale(training)
    draws = {
        name: kernel_distances(encoder.features(of_method) / scale, validation / scale, KID_SUBSETS, KID_SUBSET_SIZE)
        for name, of_method in images.items()
    }
    few, many = METHODS
    return {
        "images": number,
        "threads": torch.get_num_threads(),
        "checkpoint_sha256": model.record["unet_sha256"],
        "methods": {
            name: {
                "num_inference_steps": steps,
                "images_per_second": round(number / seconds[name], 3),
                "kid": asdict(spread(draws[name])),
            }
            for name, steps in METHODS.items()
        },
        "kid_difference": asdict(spread(draws[few] - draws[many])),
    }


def sample_in_turn(
    samplers: Mapping[str, ImageSampler], number: int
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Returns the images (N, C, H, W) of each sampler and the seconds that it took, a batch of each after the other."""
    images: dict[str, list[torch.Tensor]] = {name: [] for name in samplers}
    seconds = dict.fromkeys(samplers, 0.0)
    for start in tqdm(range(0, number, BATCH_SIZE), unit="batch"):
        seeds = range(start, min(start + BATCH_SIZE, number))
        for name, sampler in samplers.items():
            started = time.perf_counter()
            images[name] += [sampled.image for sampled in sampler.sample(seeds)]
            seconds[name] += time.perf_counter() - started
    return {name: torch.stack(of_sampler) for name, of_sampler in images.items()}, seconds


def main() -> None:
    """Reads the command line, samples, and writes the measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("diffusion_dir", type=Path, help="output folder of training an unconditional model")
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--datalist", type=Path, required=True, help="with absolute paths, as `tskd plan` writes it")
    parser.add_argument("--encoder", default="sam_demo", help="encoder whose features are compared")
    parser.add_argument("--encoder-weights", type=Path)
    parser.add_argument("--number", type=int, default=64, help="number of images, seeds 0, 1, 2, ...")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    task = load_task(args.task)
    model = load_diffusion_pipeline(args.diffusion_dir / "pipeline", task.hash)
    encoder = gate_encoder(task, None, args.encoder, args.encoder_weights)
    write_json(args.output, measure(model, task, args.datalist, encoder, args.number))


if __name__ == "__main__":
    main()
